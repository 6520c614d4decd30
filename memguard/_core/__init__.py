"""JUDGE and PLAN: pure decisions. No clock, no I/O, no thread; time arrives as a number inside a value."""
