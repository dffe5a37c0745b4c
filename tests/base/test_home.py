"""Without a home folder there is no cache, and no folder that is named ~."""

import os
import pwd
from pathlib import Path

import pytest

from base.home import cache_folder, choose_hub_cache, has_home


def test_a_cache_below_the_home_folder_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert has_home()
    assert cache_folder("~/.cache/x") == "/home/somebody/.cache/x"
    assert cache_folder("/tmp/x") == "/tmp/x"
    assert cache_folder("") == ""


@pytest.mark.parametrize("home", [None, ""])
def test_without_a_home_folder_there_is_no_cache(monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    def unknown(user: int) -> None:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME")
    if home is not None:
        monkeypatch.setenv("HOME", home)
    for name in ("HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert not has_home()
    assert cache_folder("~/.cache/x") == cache_folder("~") == cache_folder("~nobody-of-this-name/x") == ""
    assert cache_folder("/tmp/x") == "/tmp/x"
    assert cache_folder("gs://bucket/x") == "gs://bucket/x"
    choose_hub_cache()
    assert Path(os.environ["HF_HOME"]).is_absolute() and not Path(os.environ["HF_HOME"]).exists()
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    choose_hub_cache()
    assert "HF_HOME" not in os.environ
