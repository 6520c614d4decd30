"""The cache simulator's parts: loads, traces, peers and ours."""
