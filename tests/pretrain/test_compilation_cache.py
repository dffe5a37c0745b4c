"""The folder of compiled programs: used where it can be written, and else left out with a word."""

import jax
import pytest

from pretrain.runtime.train_command import use_compilation_cache


@pytest.fixture
def kept(monkeypatch):
    """The settings that jax is given."""
    given = {}
    monkeypatch.setattr(jax.config, "update", given.__setitem__)
    return given


def test_a_folder_that_can_be_written_is_used(tmp_path, kept):
    use_compilation_cache(str(tmp_path / "new" / "xla"))
    assert kept == {"jax_compilation_cache_dir": str(tmp_path / "new" / "xla")}
    assert list((tmp_path / "new" / "xla").iterdir()) == []


def test_a_folder_that_cannot_be_written_costs_a_line_and_not_the_run(tmp_path, kept, caplog):
    (tmp_path / "file").touch()
    use_compilation_cache(str(tmp_path / "file" / "xla"))
    use_compilation_cache("")
    assert kept == {}
    assert caplog.messages == [
        f"config.compilation_cache={tmp_path}/file/xla cannot be written (Not a directory): programs are compiled each "
        "time; set another folder"
    ]
