"""Memory of programs on a CPU: large pages that the process keeps, by settings of glibc's malloc.

XLA's CPU programs take new memory for their arrays in each step and give it back after it. The kernel makes that memory
page by page, and a virtual machine may give the pages to its host within seconds: a step of RoBERTa-base after a pause
of two seconds took 4.0 s for 2.0 s. With the settings below the process keeps its memory, in pages of 2 MB where the
kernel has them (benchmarks/RESULTS.md, docs/decisions.md). glibc reads them as a process starts, and never again.
"""

import os
import platform
import sys
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"
"""The variable that glibc reads."""
SETTINGS = {
    "hugetlb": 1,  # ask for large pages, where the kernel gives them to programs that ask
    "mmap_max": 0,  # arrays come from the heap, and not from maps that end with them
    "trim_threshold": 2**40,  # the heap does not shrink (bytes)
    "arena_max": 1,  # one heap: those of threads are smaller than XLA's arrays
}
"""Settings `glibc.malloc.NAME`."""
ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/accel0", "/dev/vfio/0")
"""Device files of GPUs and TPUs."""


def tunables() -> str:
    """The settings, as `TUNABLES` has them."""
    return ":".join(f"glibc.malloc.{name}={value}" for name, value in SETTINGS.items())


def start_again() -> None:
    """Start this process again with the settings, where its programs run on a CPU and the C library is glibc.

    Call it before anything is imported that takes time. It returns where there is nothing to do. A process with
    settings of `glibc.malloc` in GLIBC_TUNABLES keeps them.
    """
    given = os.environ.get(TUNABLES, "")
    if "glibc.malloc." in given or not sys.executable or not (_runs_on_cpu() and _has_glibc()):
        return
    os.environ[TUNABLES] = ":".join(filter(None, (given, tunables())))
    os.execv(sys.executable, sys.orig_argv)


def _runs_on_cpu() -> bool:
    chosen = os.environ.get("JAX_PLATFORMS", "")
    return chosen == "cpu" or (not chosen and not any(Path(device).exists() for device in ACCELERATORS))


def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
