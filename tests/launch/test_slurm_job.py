"""A batch job from its first start to its last: when it goes back to the queue, and when it does not."""

import json
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from launch.config import LaunchConfig, SlurmConfig
from launch.slurm import render
from tests.launch.slurm_stand_in import Slurm
from tests.quick_start import CACHE, without_tensorboard
from tests.tiny import write_corpus

# A run of three steps, each of which waits to be told to go on, as pretraining behaves.
STEPS = """
import os, signal, sys, time
from pathlib import Path
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
if os.environ.get("FAIL"):
    sys.exit(int(os.environ["FAIL"]))
assert os.environ["UNMASK_DISTRIBUTED"] == "1"
workdir = Path(sys.argv[1].partition("=")[2])
workdir.mkdir(exist_ok=True)
step = int((workdir / "step").read_text()) if (workdir / "step").exists() else 0
(workdir / f"from{step}").write_text("begun")
while not stop and not (workdir / "go").exists():
    time.sleep(0.02)
(workdir / "step").write_text(str(step + 1))
if not stop:
    (workdir / "finished.json").write_text("{}")
"""
COMMAND = ["python", "-m", "pretrain", "--workdir=run"]
FAST_COMPILATION = (
    "JAX_DISABLE_MOST_OPTIMIZATIONS",
    "XLA_FLAGS",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
)
"""Variables of tests/conftest.py."""
CPU = SlurmConfig(gpus_per_node=0, cpus_per_task=1)


def job(tmp_path: Path, *, command=COMMAND, config=None, **changes) -> tuple[Slurm, str]:
    (tmp_path / "pretrain.py").write_text(STEPS)
    shared = config or LaunchConfig()
    return Slurm(tmp_path), render("big", command, replace(shared, slurm=replace(CPU, **changes)))


def test_a_job_goes_back_to_the_queue_until_its_run_has_finished(tmp_path):
    slurm, script = job(tmp_path)
    for step in (0, 1):
        running = slurm.start(script)
        slurm.signal_step(signal.SIGTERM, tmp_path / f"run/from{step}", running)
        assert slurm.end(running) == (0, "big: the run was stopped and is saved; put in the queue again")
        assert slurm.requeued()
    (tmp_path / "run/go").touch()
    assert slurm.end(slurm.start(script)) == (0, "big: the run has finished")
    assert not slurm.requeued()
    assert (tmp_path / "run/step").read_text() == "3"
    # Once more by mistake: nothing is left to do.
    assert slurm.end(slurm.start(script))[0] == 0
    assert not slurm.requeued()


@pytest.mark.parametrize("status", [1, 2, 137])
def test_a_run_that_fails_is_not_tried_again(tmp_path, status):
    slurm, script = job(tmp_path)
    ended = slurm.end(slurm.start(script, FAIL=str(status)))
    assert ended == (status, f"big: the run has failed with exit status {status}")
    assert not slurm.requeued()


def test_a_run_that_hung_goes_back_to_the_queue(tmp_path):
    slurm, script = job(tmp_path)
    ended = slurm.end(slurm.start(script, FAIL="75"))
    assert ended == (0, "big: the run hung, and its watchdog ended it; put in the queue again")
    assert slurm.requeued()


def test_a_run_stopped_before_its_first_step_goes_back_unless_it_had_time(tmp_path):
    slurm, script = job(tmp_path)
    said = "big: the run was stopped before a step was saved"
    assert slurm.end(slurm.start(script, FAIL="143")) == (0, f"{said}; put in the queue again")
    assert slurm.requeued()
    ended = slurm.end(slurm.start(script.replace("limit_seconds=86400", "limit_seconds=-4"), FAIL="143"))
    assert ended == (143, f"{said} in half of config.slurm.time: not put in the queue again")
    assert not slurm.requeued()


def test_a_job_goes_back_so_many_times_at_most(tmp_path):
    slurm, script = job(tmp_path, max_restarts=3)
    slurm.restarts = 3
    running = slurm.start(script)
    slurm.signal_step(signal.SIGTERM, tmp_path / "run/from0", running)
    status, said = slurm.end(running)
    assert (status, slurm.requeued()) == (75, False)
    assert said.endswith("; not put in the queue again, after 3 times (config.slurm.max_restarts)")


@pytest.mark.parametrize(("state", "said"), [("COMPLETING", "COMPLETING"), ("", "gone")])
def test_a_cancelled_job_does_not_come_back(tmp_path, state, said):
    slurm, script = job(tmp_path)
    slurm.state = state
    running = slurm.start(script)
    slurm.signal_step(signal.SIGTERM, tmp_path / "run/from0", running)
    assert slurm.end(running) == (75, f"big: the run was stopped and is saved; the job is {said}")
    assert not slurm.requeued()


def test_secrets_come_from_a_file_that_others_cannot_read(tmp_path):
    config = LaunchConfig(secrets=("HF_TOKEN=hf",), env=("FROM_HERE",))
    command = ["sh", "-c", 'printf %s "$HF_TOKEN $FROM_HERE" > got', "--workdir=run"]
    slurm, script = job(tmp_path, command=command, config=config, secrets_file="~/my secrets")
    secrets = tmp_path / "my secrets"
    wrong = f"big: {secrets} should be a file that you alone can read (chmod 600)"
    assert slurm.end(slurm.start(script, FROM_HERE="x")) == (2, wrong)

    secrets.write_text("HF_TOKEN='a b'\n")
    secrets.chmod(0o644)
    assert slurm.end(slurm.start(script, FROM_HERE="x")) == (2, wrong)

    secrets.chmod(0o600)
    status, said = slurm.end(slurm.start(script))
    assert (status, said.partition(";")[0]) == (2, "big: FROM_HERE is not set")
    assert not (tmp_path / "got").exists()

    assert slurm.end(slurm.start(script, FROM_HERE="x"))[0] == 0
    assert (tmp_path / "got").read_text() == "a b x"


def free_job_number() -> int:
    """A job's number for which jax's port on the first node, 61440 + number % 4096, is free."""
    for number in range(1, 4096):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", 61440 + number)):
                return number
    raise AssertionError("no port is free")


@pytest.mark.slow
def test_pretraining_on_two_nodes_finds_itself_and_goes_on_after_the_time_limit(tmp_path):
    write_corpus(tmp_path / "text.txt")
    command = [
        *(
            "python",
            "-m",
            "pretrain",
            f"--config={Path(__file__).parents[2]}/configs/debug.py",
            "--workdir=run",
        ),
        *("--config.data.source=files", "--config.data.path=text.txt", "--config.data.streams=2"),
        *("--config.tokenizer.vocab_size=300", "--config.seq_len=32", "--config.global_batch=4"),
        *(
            "--config.log.every=1",
            "--config.eval.every=0",
            "--config.steps=60",
            "--config.model.hidden_size=32",
            "--config.data.window=8",
            f"--config.compilation_cache={CACHE}",
        ),
    ]
    slurm = Slurm(without_tensorboard(tmp_path), job=free_job_number())
    fast = {name: os.environ[name] for name in FAST_COMPILATION if name in os.environ}
    script = render("big", command, LaunchConfig(slurm=replace(CPU, nodes=2)))
    running = slurm.start(script, **fast)
    slurm.signal_step(signal.SIGTERM, tmp_path / "run/metrics.jsonl", running)
    assert slurm.end(running) == (0, "big: the run was stopped and is saved; put in the queue again")
    assert slurm.requeued()
    assert not (tmp_path / "run/finished.json").exists()

    assert slurm.end(slurm.start(script, **fast)) == (0, "big: the run has finished")
    assert not slurm.requeued()
    assert json.loads((tmp_path / "run/finished.json").read_text())["step"] == 60
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    steps = [record["step"] for record in map(json.loads, lines) if "loss" in record]
    assert steps == sorted(set(steps))
