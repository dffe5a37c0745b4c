"""A process that is started again with settings of its memory: where, and with which."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from base import kept_memory


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, list[str], str]]:
    """The programs that the process was replaced by: the file, the arguments, glibc's settings."""
    found: list[tuple[str, list[str], str]] = []
    monkeypatch.setattr(
        os, "execv", lambda file, argv: found.append((file, argv, os.environ["GLIBC_TUNABLES"]))
    )
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(kept_memory, "ACCELERATORS", (str(tmp_path / "gpu"),))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    return found


def test_the_same_command_starts_again_with_the_settings(started: list[object]) -> None:
    kept_memory.start_again()
    assert started == [(sys.executable, sys.orig_argv, kept_memory.tunables())]
    kept_memory.start_again()
    assert len(started) == 1  # once


def test_other_settings_of_glibc_are_kept(
    started: list[tuple[str, list[str], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.cpu.x86_ibt=off")
    kept_memory.start_again()
    assert [settings for *_, settings in started] == [f"glibc.cpu.x86_ibt=off:{kept_memory.tunables()}"]


def test_nothing_is_done_with_another_c_library(
    started: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    kept_memory.start_again()
    assert not started


def test_nothing_is_done_for_an_accelerator(
    started: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    kept_memory.start_again()
    monkeypatch.delenv("JAX_PLATFORMS")
    (tmp_path / "gpu").touch()
    kept_memory.start_again()
    assert not started
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    kept_memory.start_again()
    assert started


@pytest.mark.parametrize("chosen", ["glibc.malloc.hugetlb=0", "glibc.malloc.arena_max=4"])
def test_the_users_choice_is_kept(
    started: list[object], monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", chosen)
    kept_memory.start_again()
    assert not started


ARRAYS = """
import ctypes, resource, threading
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def arrays():
    faults = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        array = libc.malloc(100 << 20)
        ctypes.memset(array, 1, 100 << 20)
        libc.free(array)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    print(*faults)
thread = threading.Thread(target=arrays)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_thread_that_takes_an_array_again_finds_its_memory_there() -> None:
    """glibc refuses no setting, so that only a process that was started with them shows that they act."""
    environment = {**os.environ, "GLIBC_TUNABLES": kept_memory.tunables()}
    printed = subprocess.run(
        [sys.executable, "-c", ARRAYS], env=environment, capture_output=True, text=True, check=True
    )
    first, *others = map(int, printed.stdout.split())
    assert first > 40  # pages of 2 MB, or 25,600 of 4 KB
    assert sum(others) < 10
