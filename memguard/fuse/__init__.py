"""The fuse: a rolling soft RLIMIT_DATA, so that what would not fit fails as a MemoryError before the kernel kills.

It needs no look in time: the kernel refuses the mapping itself, even inside one C call that holds the GIL. How it is
reckoned, and what it cannot do, is in ``docs/fuse.md``.
"""
