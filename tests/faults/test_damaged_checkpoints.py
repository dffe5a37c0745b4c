"""Checkpoints that were damaged, copied, cut or could not be written: each is told apart from a sound one."""

import contextlib
import errno
import os
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from base import storage
from base.errors import UserError
from base.storage import StorageError, is_storage_failure, outage, storage_flaw
from pretrain.runtime import manifest
from pretrain.runtime.checkpointer import Checkpointer
from pretrain.runtime.saved_params import restore_params

STEPS = (3, 6, 9)


def state(step: int) -> dict:
    """A state that no compression makes small."""
    noise = np.random.default_rng(step).standard_normal((60, 500)).astype(np.float32)
    return {
        "params": {"a": jnp.asarray(noise), "b": jnp.full((7,), step, jnp.float32)},
        "step": jnp.int32(step),
    }


ABSTRACT = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state(0)
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with three checkpoints."""
    folder = tmp_path_factory.mktemp("saved")
    save(folder, STEPS)
    return folder


def save(folder: Path, steps, **options) -> None:
    checkpointer = Checkpointer(folder, keep=9, **options)
    for step in steps:
        checkpointer.save(step, state(step), {"best": None, "data": {"offset": step}})
    checkpointer.close()


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


def restored(folder: Path, **options) -> tuple[int, dict]:
    """What a run would go on from."""
    checkpointer = Checkpointer(folder, keep=9, **options)
    try:
        found, run = checkpointer.restore(ABSTRACT)
        expected = state(run["data"]["offset"])
        for mine, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(mine, right)
        return run["step"], run
    finally:
        checkpointer.close()


def files_of(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def flip(path: Path, place: float) -> None:
    """One bit of a byte."""
    content = bytearray(path.read_bytes())
    content[min(int(place * len(content)), len(content) - 1)] ^= 16
    path.write_bytes(content)


LISTED = ("run/metadata", "state/_METADATA", "state/_sharding", "state/manifest.ocdbt")


def test_every_file_of_a_checkpoint_is_in_its_manifest(saved: Path):
    checkpoint = saved / "checkpoints" / "9"
    names = {path.relative_to(checkpoint).as_posix() for path in files_of(checkpoint)}
    listed = manifest.read(epath.Path(checkpoint))
    assert set(listed) == {
        name for name in names - set(manifest.WRITTEN_LATER) if not name.startswith("manifest/")
    }
    assert set(LISTED) <= set(listed)
    for name, (size, _) in listed.items():
        assert size == (checkpoint / name).stat().st_size


def test_a_flipped_bit_of_any_file_is_noticed(folder: Path, caplog):
    """Array data has no checksums of its own: without a manifest most of these restore silently wrong."""
    checkpoint = folder / "checkpoints" / "9"
    for path in files_of(checkpoint):
        name = path.relative_to(checkpoint).as_posix()
        if name.rpartition("/")[2] in manifest.WRITTEN_LATER and not name.startswith(("run/", "state/")):
            continue  # their being there is what counts
        for place in (0.0, 0.5, 1.0):
            whole = path.read_bytes()
            flip(path, place)
            caplog.clear()
            assert restored(folder)[0] == 6, (name, place)
            why = (
                f"{name} has another content" if not name.startswith("manifest/") else "trying the one before"
            )
            assert len(caplog.messages) == 1 and why in caplog.text
            (folder / "checkpoints" / "9.unreadable").rename(checkpoint)
            path.write_bytes(whole)
    assert restored(folder)[0] == 9


def truncate(checkpoint: Path) -> None:
    path = max(files_of(checkpoint / "state"), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def copy_of_an_older_one(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    shutil.copytree(checkpoint.with_name("3"), checkpoint)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (truncate, "bytes, not "),
        (lambda checkpoint: (checkpoint / "manifest" / "metadata").unlink(), "manifest/metadata is missing"),
        (lambda checkpoint: shutil.rmtree(checkpoint / "manifest"), "its manifest (manifest/metadata) is missing"),
        (lambda checkpoint: (checkpoint / "run" / "metadata").unlink(), "run/metadata is missing"),
        (lambda checkpoint: (checkpoint / "state" / "manifest.ocdbt").unlink(), "state/manifest.ocdbt is missing"),
        (lambda checkpoint: (checkpoint / "state" / "commit_success.txt").unlink(), "commit_success.txt is missing"),
        (lambda checkpoint: (checkpoint / "run" / "metadata").write_text("{"), "run/metadata has 1 bytes"),
        (lambda checkpoint: (checkpoint / "commit_success.txt").unlink(), "it was never committed"),
        (copy_of_an_older_one, "it is of step 3, and its folder is named 9"),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_set_aside_and_what_is_wrong_is_named(folder: Path, damage, why: str, caplog):
    damage(folder / "checkpoints" / "9")
    assert restored(folder)[0] == 6
    assert [line for line in caplog.messages if "cannot be read" in line] == caplog.messages
    assert why in caplog.text
    assert (folder / "checkpoints" / "9.unreadable").is_dir()
    assert restored(folder)[0] == 6


def test_a_run_is_told_of_the_checkpoint_that_it_goes_on_from(folder: Path, monkeypatch):
    """A change of the config was dated by the run item of a checkpoint whose arrays were damaged."""
    array = next(
        path for path in files_of(folder / "checkpoints" / "9" / "state") if "/d/" in path.as_posix()
    )
    flip(array, 0.5)
    checkpointer = Checkpointer(folder, keep=9)
    compared: list[int] = []
    check = checkpointer.check
    monkeypatch.setattr(
        checkpointer, "check", lambda step, part="": (part or compared.append(step), check(step, part))[1]
    )
    told = checkpointer.read_run(whole=True)
    found = checkpointer.restore(ABSTRACT)
    checkpointer.close()
    assert told and found and told["step"] == found[1]["step"] == 6
    assert compared == [9, 6, 9], "the one that is taken is compared once"


def test_an_empty_folder_is_no_checkpoint(folder: Path):
    empty(folder / "checkpoints" / "9")
    assert restored(folder)[0] == 6


def test_a_checkpoint_is_set_aside_beside_an_earlier_one_of_the_step(folder: Path):
    for _ in range(3):
        truncate(folder / "checkpoints" / "9")
        assert restored(folder)[0] == 6
        save(folder, [9])
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["3", "6", "9", "9.unreadable", "9.unreadable.1", "9.unreadable.2"]
    assert restored(folder)[0] == 9


def test_a_run_whose_checkpoints_are_all_bad_stops(folder: Path):
    for step in STEPS:
        truncate(folder / "checkpoints" / str(step))
    with pytest.raises(
        UserError, match=r"none of the checkpoints .* \(steps \[3, 6, 9\]\) can be read \(9: state/"
    ):
        restored(folder)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["3", "6", "9"]


def test_what_reads_params_refuses_a_damaged_checkpoint(folder: Path):
    truncate(folder / "checkpoints" / "6")
    with pytest.raises(
        UserError, match=r"checkpoint 6 in .* cannot be read \(state/.*bytes, not .*other steps: \[3, 9"
    ):
        restore_params(folder, 6)
    assert restore_params(folder)[1]["step"] == 9


def test_checkpoints_of_older_code_and_those_that_are_not_verified_have_no_manifest(tmp_path: Path):
    save(tmp_path, STEPS, verify=False)
    assert not (tmp_path / "checkpoints" / "9" / "manifest").exists()
    assert restored(tmp_path)[0] == restored(tmp_path, verify=False)[0] == 9
    (tmp_path / "checkpoints" / "9" / "run" / "metadata").write_text("{")
    assert restored(tmp_path)[0] == 6


def test_verification_can_be_left_out(folder: Path):
    flip(folder / "checkpoints" / "9" / "state" / "_sharding", 0.5)
    (folder / "checkpoints" / "9" / "manifest" / "metadata").write_text("{}")
    assert restored(folder, verify=False)[0] == 9


def failing(monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    """Have the disk fail so many times in reading a file; returns the files that it failed on."""
    read, failed = manifest._local, []

    def once(path):
        if path.name == "_METADATA" and len(failed) < times:
            failed.append(path.name)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    monkeypatch.setattr(manifest, "_local", once)
    monkeypatch.setattr(storage, "PAUSES", (0.01, 0.01))
    return failed


def test_a_disk_that_fails_once_is_asked_again(folder: Path, monkeypatch, caplog):
    failed = failing(monkeypatch, 2)
    assert restored(folder)[0] == 9 and len(failed) == 2
    assert len(caplog.messages) == 2 and "reading again in 0.01 s" in caplog.messages[0]


def test_a_disk_that_goes_on_failing_costs_no_checkpoint(folder: Path, monkeypatch):
    failing(monkeypatch, 99)
    with pytest.raises(
        UserError, match=r"checkpoint 9 .* cannot be read now .*Input/output error.*left as it is"
    ):
        restored(folder)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["3", "6", "9"]


@contextlib.contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """The disk takes no more than so many bytes of a file, as one that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize(
    "order",
    [("[os_error_code='27']", "[tensorstore_spec='{true}']"), ("[spec='{x: y}']", "[os_error_code='27']")],
)
def test_what_the_disk_says_is_found_wherever_tensorstore_puts_it(order: tuple[str, str]):
    error = ValueError(
        f"OUT_OF_RANGE: Error writing: Failed to write 61118 bytes: File too large {' '.join(order)}"
    )
    assert storage_flaw(error) == "File too large" and is_storage_failure(error)


@pytest.mark.parametrize("longest", [50_000, 10])
def test_a_full_disk_costs_a_checkpoint_and_a_line(folder: Path, longest: int, caplog):
    checkpointer = Checkpointer(folder, keep=2)
    with no_file_longer_than(longest):
        checkpointer.save(12, state(12), {"best": None, "data": {"offset": 12}})
        until = time.monotonic() + 30
        while not caplog.messages and time.monotonic() < until:
            checkpointer.report()
            time.sleep(0.02)
    assert caplog.messages == [
        "the checkpoint of step 12 could not be saved (File too large); that of step 9 is kept, and the run goes on"
    ]
    assert 12 not in checkpointer.steps and {6, 9} <= set(checkpointer.steps)
    left = (path for place in (folder / "checkpoints").glob("12*") for path in files_of(place))
    assert sum(path.stat().st_size for path in left) < 1000
    checkpointer.save(15, state(15), {"best": None, "data": {"offset": 15}})
    checkpointer.close()
    assert restored(folder)[0] == 15


def test_of_several_processes_a_full_disk_ends_the_run_in_one_line(folder: Path, monkeypatch):
    """It ended with a traceback of a hundred lines."""
    monkeypatch.setattr("pretrain.runtime.checkpointer.processes.count", lambda: 2)
    checkpointer = Checkpointer(folder, keep=2)
    with no_file_longer_than(50_000), pytest.raises(StorageError) as error:
        checkpointer.save(12, state(12), {"best": None})
        checkpointer.wait()
    assert outage(error.value).startswith(
        "the checkpoint of step 12 could not be saved (File too large): of several"
    )
    monkeypatch.undo()
    assert restored(folder)[0] == 9


def test_a_checkpoint_that_does_not_fit_the_disk_is_not_begun(folder: Path, monkeypatch, caplog):
    checkpointer = Checkpointer(folder, keep=9)
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    checkpointer.save(12, state(12), {"best": None})
    checkpointer.close()
    assert len(caplog.messages) == 1 and "step 12 could not be saved (it needs " in caplog.text
    assert restored(folder)[0] == 9
