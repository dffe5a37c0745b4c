"""A real pretraining on a pod that a stand-in for gcloud plays: two machines are two processes of jax.distributed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.subprocesses import ROOT
from tests.launch.cloud import NAME, Cloud
from tests.quick_start import CACHE, without_tensorboard
from tests.tiny import write_corpus

SECONDS = 600
"""The longest that the test waits for anything; on a quiet machine it takes a tenth of it."""
CANARY = "hf_canary_4711_of_the_secret"
STEPS = 80


def up(cloud: Cloud, workdir: Path, output: Path) -> "subprocess.Popen[bytes]":
    """The launcher, as a user starts it."""
    argv = [sys.executable, "-m", "launch.tpu", "up", NAME, "--no-plan", "--delete"]
    argv += ["--config.tpu.accelerator=v4-16", "--config.tpu.project=proj", "--config.tpu.zone=us-central2-b"]
    argv += ["--config.tpu.poll_seconds=0.5", "--config.source=archive", "--config.shared_workdir=True"]
    argv += ["--config.secrets=('HF_TOKEN=hf-token',)", "--"]
    argv += ["python", "-m", "pretrain", "--config=configs/debug.py", f"--workdir={workdir}"]
    argv += [f"--config.steps={STEPS}", "--config.checkpoint.every=5", "--config.eval.every=0"]
    argv += ["--config.seq_len=32", "--config.model.hidden_size=32", "--config.model.intermediate_size=64"]
    argv += ["--config.data.source=files", f"--config.data.path={write_corpus(workdir.with_suffix('.txt'))}"]
    argv += ["--config.tokenizer.vocab_size=300", f"--config.compilation_cache={CACHE}"]
    with output.open("wb") as file:
        return subprocess.Popen(argv, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)


def wait_for(what, process, output):
    """Poll until `what` holds."""
    until = time.monotonic() + SECONDS
    while not what():
        assert process.poll() is None and time.monotonic() < until, output.read_text()
        time.sleep(0.05)


@pytest.mark.slow
def test_a_run_survives_the_preemption_of_its_pod(tmp_path, monkeypatch):
    cloud = Cloud(tmp_path / "cloud", monkeypatch, hosts=2)
    cloud.set(
        environment={
            "JAX_COORDINATOR_ADDRESS": "127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": "{worker}",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=1",
            "NPROC": "16",
            "UNMASK_HEARTBEAT_SECONDS": "60",
            "PYTHONPATH": str(without_tensorboard(tmp_path / "stand-ins")),
        }
    )
    (cloud.folder / "secrets").mkdir()
    (cloud.folder / "secrets" / "hf-token").write_text(CANARY)
    workdir, output = tmp_path / "run", tmp_path / "output.txt"
    process = up(cloud, workdir, output)
    try:
        wait_for(lambda: "step 10/" in output.read_text(), process, output)
        first = json.loads((cloud.home() / "unmask" / NAME / "job.json").read_text())
        cloud.preempt()
        wait_for(lambda: cloud.verbs("start") == ["start"] * 2, process, output)
        log = cloud.home() / "unmask" / NAME / "log.txt"
        wait_for(lambda: log.exists() and "step" in log.read_text(), process, output)
        second = json.loads((cloud.home() / "unmask" / NAME / "job.json").read_text())
        assert process.wait(SECONDS) == 0, output.read_text()
    finally:
        process.kill()
        process.wait()
        subprocess.run(
            ["gcloud", "compute", "tpus", "queued-resources", "delete", NAME, "--force"], check=False
        )

    told = output.read_text()
    assert json.loads((workdir / "finished.json").read_text()) == {"step": STEPS, "steps": STEPS}
    assert cloud.verbs("create", "delete", "setup", "start")[:7] == [
        *("create", "setup", "start"),
        *("delete", "create", "setup", "start"),
    ]
    assert cloud.empty
    assert {**first, "launch": ""} == {**second, "launch": ""}
    assert told.count("[0] ") > 10
    assert "lost (1 of at most 20 times)" in told
    assert f"launch: {NAME} is deleted: nothing is left of it" in told
    saved = [file for file in workdir.rglob("*") if file.is_file()]
    assert not any("tensorboard" in file.parts for file in saved)
    assert not any(CANARY.encode() in file.read_bytes() for file in saved)
    assert CANARY not in told
