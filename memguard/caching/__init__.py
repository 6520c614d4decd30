"""Our own caches, bounded in bytes: the store, the mapping, the decorator, sizing, and the market they share."""
