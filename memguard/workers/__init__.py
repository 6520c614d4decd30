"""Several processes, one limit: the ledger that workers share, and the lease of which one has it at a time."""
