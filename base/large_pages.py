"""Large pages of memory for programs on a CPU: a process is started again with the setting of glibc that asks for them.

XLA's CPU programs take new memory for their arrays in each step, and the kernel makes it page by page. With pages of
2 MB instead of 4 KB, a step of RoBERTa-base takes about a tenth less time where nothing else runs, and more beside
other large processes (benchmarks/RESULTS.md).
"""

import os
import sys
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"
"""The variable that glibc reads as a process starts, and never again."""
LARGE_PAGES = "glibc.malloc.hugetlb"
KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")
"""Says [always], [madvise] or [never]; with the second, a program has to ask for large pages."""
ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/accel0", "/dev/vfio/0")
"""Device files of GPUs and TPUs."""


def start_again() -> None:
    """Start this process again with large pages, where its programs run on a CPU and the kernel wants to be asked.

    Call it before anything is imported that takes time. It returns where there is nothing to do. A setting of
    glibc.malloc.hugetlb in GLIBC_TUNABLES is kept.
    """
    given = os.environ.get(TUNABLES, "")
    if LARGE_PAGES in given or not sys.executable or not (_runs_on_cpu() and _must_ask()):
        return
    os.environ[TUNABLES] = ":".join(filter(None, (given, f"{LARGE_PAGES}=1")))
    os.execv(sys.executable, sys.orig_argv)


def _runs_on_cpu() -> bool:
    chosen = os.environ.get("JAX_PLATFORMS", "")
    return chosen == "cpu" or (not chosen and not any(Path(device).exists() for device in ACCELERATORS))


def _must_ask() -> bool:
    try:
        return "[madvise]" in KERNEL.read_text()
    except OSError:
        return False
