"""The demonstration: one agent service, killed bare and alive guarded, under the same load and a real limit."""
