"""Hosts: what other people's frameworks call, one module each; they do not know one another."""
