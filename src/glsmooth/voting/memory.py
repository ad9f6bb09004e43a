"""Memory of networks on a CPU: what a batch frees, the next one takes without asking the system again.

A block that the system hands out anew must be cleared, page by page: for large batches that takes longer than the
network's arithmetic. Two settings help, and both hold for the whole process: one is made when this is imported, the
other by :func:`keep_freed_memory`.
"""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_freed_memory"]

# torch shall ask for pages of 2 MiB, so that blocks of more than 32 MiB are cleared in fewer and larger steps. It reads
# this at its first allocation. Who has set it (0: no huge pages) is left alone; where the system has no huge pages,
# nothing changes.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_freed_memory() -> bool:
    """Have the C library keep memory that a batch frees for the next one, in this process.

    glibc does so for blocks of up to 32 MiB, its largest threshold. False where there is no such setting.
    """
    trim_threshold, mmap_threshold = -1, -3  # names in malloc.h
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(mmap_threshold, 32 * 2**20) and mallopt(trim_threshold, 2**31 - 1))
