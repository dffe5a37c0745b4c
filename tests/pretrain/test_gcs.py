"""Runs in a bucket, against an emulator of Google Cloud Storage: what they leave there, and what when it fails."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from base import storage
from base.errors import UserError
from pretrain import fill_mask
from pretrain.export import export
from pretrain.job import assemble
from pretrain.origin import origin_params
from pretrain.reports.metric_writer import MetricWriter, read_metrics
from pretrain.runtime.checkpointer import Checkpointer, newest_step
from pretrain.runtime.saved_params import restore_params
from pretrain.runtime.workdir import prepare
from pretrain.train import train
from tests.gcs_emulator import RESET, emulator, folder, gcs  # noqa: F401  # fixtures
from tests.tiny import on_one_device, tiny_config, write_corpus

REPOSITORY = Path(__file__).parents[2]
CORPUS, RUN = folder("corpus/text.txt"), folder("runs/one")
CHANGES = {"checkpoint": {"every": 2, "keep": 2}, "eval": {"every": 2, "steps": 2}}
TRAIN = f"""
import tests.conftest
from etils import epath
from pretrain.reports import metric_writer
from pretrain.train import train
from tests.tiny import on_one_device, tiny_config
metric_writer.EventWriter = lambda folder: None  # seconds of importing
with on_one_device():
    train(tiny_config(epath.Path({str(CORPUS)!r}), **{CHANGES!r}), epath.Path({str(RUN)!r}))
"""


@pytest.fixture(scope="module")
def run(emulator, tmp_path_factory):  # noqa: F811
    """A run in the bucket, killed while it writes its second checkpoint and then finished, and the same on disk."""
    CORPUS.write_bytes(write_corpus(tmp_path_factory.mktemp("text") / "text.txt").read_bytes())
    started: list[subprocess.Popen] = []
    kill = emulator.fail(
        "^POST .*runs/one/checkpoints/4/state/ocdbt.process_0/manifest",
        RESET,
        action=lambda: started[0].send_signal(signal.SIGKILL),
    )
    log = tmp_path_factory.mktemp("log") / "stderr"
    with log.open("w") as stderr:
        started.append(subprocess.Popen([sys.executable, "-c", TRAIN], cwd=REPOSITORY, stderr=stderr))
        status = started[0].wait(300)
    assert (status, kill.met > 0) == (-signal.SIGKILL, True), log.read_text()
    emulator.faults.clear()
    killed = {
        "newest": newest_step(RUN),
        "logged": [line["step"] for line in read_metrics(RUN / "metrics.jsonl")],
        "objects": emulator.names(str(RUN)),
    }
    config, local = tiny_config(CORPUS, **CHANGES), epath.Path(tmp_path_factory.mktemp("local"))
    with on_one_device():
        train(config, RUN)
        train(config, local)
    return {"killed": killed, "local": local}


def losses(workdir):
    lines = read_metrics(workdir / "metrics.jsonl")
    names = ("train/loss", "eval/loss")
    return [(line["step"], name, line[name]) for line in lines for name in names if name in line]


@pytest.mark.slow
def test_a_killed_run_leaves_whole_checkpoints_and_the_metrics_that_lead_to_the_next(run):
    killed = run["killed"]
    assert killed["newest"] == 2
    assert any(name.startswith("checkpoints/4") for name in killed["objects"])
    assert set(killed["logged"]) >= {1, 2, 3, 4}  # the run may have gone on while the checkpoint was written


@pytest.mark.slow
def test_it_goes_on_as_the_run_that_was_never_killed(run):
    assert losses(RUN) == losses(run["local"])
    assert [step for step, name, _ in losses(RUN) if name == "train/loss"] == list(range(1, 9))
    ours, theirs = restore_params(RUN), restore_params(run["local"])
    jax.tree.map(np.testing.assert_array_equal, ours[0], theirs[0])
    assert ours[1]["data"] == theirs[1]["data"] and ours[1]["step"] == 8


@pytest.mark.slow
def test_the_bucket_holds_what_a_folder_would(run, emulator):  # noqa: F811
    def kept(names):
        return {name.partition(".out.tfevents")[0] for name in names if not name.startswith("checkpoints/")}

    here = emulator.names(str(RUN))
    files = [file for file in Path(run["local"]).rglob("*") if file.is_file()]
    assert kept(here) == kept(str(file.relative_to(run["local"])) for file in files)
    committed = {name.split("/")[1] for name in here if name.endswith("/commit_success.txt")}
    assert committed >= {"6", "8"} and "2" not in committed


@pytest.mark.slow
def test_tensorboard_reads_the_events(run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for file in (RUN / "tensorboard").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Tensors("train/loss")] == [3, 4, 5, 6, 7, 8]


@pytest.mark.slow
def test_an_export_into_the_bucket_is_the_one_on_disk(run, emulator, tmp_path):  # noqa: F811
    out = folder("exported")
    assert export(RUN, out).step == 8
    export(run["local"], epath.Path(tmp_path / "exported"))
    assert emulator.names(str(out)) == sorted(file.name for file in (tmp_path / "exported").iterdir())
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (out / name).read_bytes() == (tmp_path / "exported" / name).read_bytes()
    with pytest.raises(UserError, match="exported"):
        export(RUN, out)


@pytest.mark.slow
@pytest.mark.parametrize("origin", ["gs://bucket/runs/one", "gs://bucket/exported"])
def test_another_run_begins_from_it(run, origin, tmp_path):
    if origin.endswith("exported") and not (folder("exported") / "config.json").exists():
        export(RUN, folder("exported"))
    config = tiny_config(CORPUS, steps=2, init_from=origin)
    job = assemble(config, epath.Path(tmp_path), None)
    jax.tree.map(np.testing.assert_array_equal, origin_params(job), restore_params(RUN)[0])


@pytest.mark.slow
def test_it_fills_blanks(run, capsys):
    assert fill_mask.main(["fill_mask", f"--workdir={RUN}", "the old <mask> sees a cat"]) == 0
    assert "the old" in capsys.readouterr().out


def saved(name, steps, *, keep=2, best=None):
    """A folder of small checkpoints."""
    checkpointer = Checkpointer(folder(name), keep=keep)
    for step in steps:
        record = {"data": {}, "best": best and {"step": best, "eval/loss": 1.0}, "sums": {}}
        checkpointer.save(step, {"params": {"w": jnp.full((64, 64), step, jnp.float32)}}, record)
        checkpointer.wait()
    return checkpointer


def test_the_newest_checkpoints_and_the_best_are_kept(gcs):  # noqa: F811
    checkpointer = saved("kept", [1, 2, 3, 4], best=1)
    assert checkpointer.steps == [1, 3, 4]
    checkpointer.close()
    assert {name.split("/")[1] for name in gcs.names("gs://bucket/kept")} == {"1", "3", "4"}


def test_a_damaged_checkpoint_is_set_aside(gcs):  # noqa: F811
    saved("damaged", [1, 2]).close()
    (folder("damaged") / "checkpoints/2/state/manifest.ocdbt").unlink()
    checkpointer = Checkpointer(folder("damaged"), keep=2)
    leaf = jax.ShapeDtypeStruct(
        (64, 64), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
    )
    state, record = checkpointer.restore({"params": {"w": leaf}})
    assert record["step"] == 1 and float(state["params"]["w"][0, 0]) == 1.0
    assert checkpointer.steps == [1]
    checkpointer.close()
    assert {name.split("/")[1] for name in gcs.names("gs://bucket/damaged")} == {"1", "2.unreadable"}


def test_metrics_are_written_anew_seldom_and_cut_on_resume(gcs):  # noqa: F811
    with MetricWriter(folder("metrics"), trackers=()) as writer:
        gcs.requests.clear()
        for step in range(1, 1000):
            writer.write(step, {"train/loss": 1.0})
        assert gcs.requests == []
        writer.flush()
        assert len(gcs.requests) == 1
    with MetricWriter(folder("metrics"), resume_step=500, trackers=()):
        assert [line["step"] for line in read_metrics(folder("metrics/metrics.jsonl"))] == list(range(1, 501))


@pytest.mark.parametrize("status", [503, 429, RESET])
def test_a_request_that_fails_twice_is_made_a_third_time(gcs, status, monkeypatch):  # noqa: F811
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds, *rest: sleep(0))  # how long: the next test
    write = gcs.fail("^POST .*upload", status, 2)
    storage.write_text(folder("retried/file"), "text")
    read = gcs.fail("^GET ", status, 1)
    assert folder("retried/file").read_text() == "text"
    assert (write.met, read.met) == (2, 1)


def test_delays_double_with_some_chance_and_come_to_an_end(gcs, monkeypatch):  # noqa: F811
    delays, sleep = [], asyncio.sleep

    async def noted(seconds, *rest):
        if seconds:
            delays.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", noted)
    monkeypatch.setattr(random, "random", lambda: 0.25)
    fault = gcs.fail("^POST .*upload", 503)
    with pytest.raises(Exception, match="try later") as raised:
        storage.write_text(folder("never/file"), "text")
    assert delays == [1.25, 2.25, 4.25, 8.25, 16.25] and fault.met == 6
    assert storage.outage(raised.value) == (
        "a bucket or server failed (try later, 503); run the same command again to go on from the last checkpoint"
    )


def test_a_checkpoint_is_saved_and_read_although_requests_fail(gcs):  # noqa: F811
    """One after the other: of two saves at once, Orbax may find the folder of one before it has made it itself."""
    for status in (503, RESET):
        arrays = gcs.fail(f"^POST .*uploadType=media&name=flaky{status}/", status, 2)
        saved(f"flaky{status}", [1]).close()
        reads = gcs.fail(f"^GET .*flaky{status}/.*tensorstore=", status, 2)
        params, _ = restore_params(folder(f"flaky{status}"))
        assert (params["w"][0, 0], arrays.met, reads.met) == (1.0, 2, 2)


REFUSED = [
    (401, "Anonymous caller does not have access", "there are no valid Google credentials"),
    (403, "no storage.objects.create", "permission denied"),
]


@pytest.mark.parametrize(("status", "said", "message"), REFUSED)
def test_a_bucket_that_may_not_be_used_is_one_line_at_once(gcs, tmp_path, status, said, message):  # noqa: F811
    fault = gcs.fail("bucket", status, message=said)
    with pytest.raises(UserError, match=f"--workdir=gs://bucket/mine: {message}.*{said}") as error:
        prepare(folder("mine"))
    assert "\n" not in str(error.value) and fault.met == 1
    with pytest.raises(UserError, match=f"--out=gs://bucket/mine: {message}"):
        export(epath.Path(tmp_path), folder("mine"))
    with pytest.raises(UserError, match=f"config.init_from=gs://bucket/other: {message}"):
        assemble(tiny_config(tmp_path, init_from="gs://bucket/other"), epath.Path(tmp_path), None)
    assert fault.met <= 5  # each check asks once or twice, none tries again


def test_a_bucket_that_is_not_there_is_one_line(gcs, tmp_path):  # noqa: F811
    there_is_none = "there is no bucket nowhere; make it"
    with pytest.raises(UserError, match=f"--workdir=gs://nowhere/run: {there_is_none}"):
        train(tiny_config(tmp_path), epath.Path("gs://nowhere/run"))
    with pytest.raises(UserError, match=f"--out=gs://nowhere/out: {there_is_none}"):
        export(epath.Path(tmp_path), epath.Path("gs://nowhere/out"))
    with pytest.raises(UserError, match="should name a folder in a bucket"):
        prepare(epath.Path("gs://bucket"))


def test_epath_reaches_buckets_without_tensorflow(gcs):  # noqa: F811
    storage.write_text(folder("retried/file"), "text")
    command = (
        "import sys, data; from etils import epath; from tests.gcs_emulator import folder; "
        "print(folder('retried').exists(), 'tensorflow' in sys.modules)"
    )
    environment = {**os.environ, "EPATH_USE_TF": "true"}
    shown = subprocess.run(
        [sys.executable, "-c", command], cwd=REPOSITORY, env=environment, capture_output=True
    )
    assert shown.stdout == b"True False\n", shown.stderr
