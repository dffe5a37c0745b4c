"""A process that is started again with large pages of memory: where, and with which settings."""

import os
import sys
from pathlib import Path

import pytest

from base import large_pages


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, list[str], str]]:
    """The programs that the process was replaced by: the file, the arguments, glibc's settings."""
    found: list[tuple[str, list[str], str]] = []
    monkeypatch.setattr(
        os, "execv", lambda file, argv: found.append((file, argv, os.environ["GLIBC_TUNABLES"]))
    )
    monkeypatch.setattr(large_pages, "KERNEL", tmp_path / "enabled")
    large_pages.KERNEL.write_text("always [madvise] never\n")
    monkeypatch.setattr(large_pages, "ACCELERATORS", (str(tmp_path / "gpu"),))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    return found


def test_the_same_command_starts_again_with_large_pages(started: list[object]) -> None:
    large_pages.start_again()
    assert started == [(sys.executable, sys.orig_argv, "glibc.malloc.hugetlb=1")]
    large_pages.start_again()
    assert len(started) == 1  # once


def test_other_settings_of_glibc_are_kept(
    started: list[tuple[str, list[str], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=3")
    large_pages.start_again()
    assert [settings for *_, settings in started] == ["glibc.malloc.check=3:glibc.malloc.hugetlb=1"]


@pytest.mark.parametrize("kernel", ["[always] madvise never", "always madvise [never]", None])
def test_nothing_is_done_where_the_kernel_need_not_be_asked(
    started: list[object], kernel: str | None
) -> None:
    large_pages.KERNEL.unlink()
    if kernel:
        large_pages.KERNEL.write_text(kernel)
    large_pages.start_again()
    assert not started


def test_nothing_is_done_for_an_accelerator(
    started: list[object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    large_pages.start_again()
    monkeypatch.delenv("JAX_PLATFORMS")
    (tmp_path / "gpu").touch()
    large_pages.start_again()
    assert not started
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    large_pages.start_again()
    assert started


def test_the_users_choice_is_kept(started: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    large_pages.start_again()
    assert not started
