"""TELL: what we call with events. Each sink is one callable; it may fail and is never waited for."""
