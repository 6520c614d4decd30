"""READ: how much memory is used, and how much is allowed. Nothing here judges."""
