"""Examining leaks: who is alive, what grows, where it was allocated, who holds it; no object's own code is run."""
