"""Several processes make the run of one: the same losses and batches, one checkpoint, one stop; whatever is lost.

All launches together make a chain, so that what one leaves is where the next goes on; `launches` starts them once.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from etils import epath

from finetune.results.final_outputs import finish
from finetune.train import train as finetune
from launch.local import environments_of
from pretrain import train as pretraining
from pretrain.devices.mesh import make_mesh
from pretrain.export import export
from pretrain.runtime.checkpointer import newest_step
from pretrain.runtime.processes import LATE
from pretrain.runtime.saved_params import restore_params
from tests.faults.several import PATIENCE, digests
from tests.finetune import tiny_task
from tests.finetune.tiny_task import tiny_finetune
from tests.tiny import tiny_config, write_corpus

ROOT = Path(__file__).parents[2]
EXACT = {"matmul_precision": "highest"}
DATA, FSDP = {"data": 4}, {"data": 1, "fsdp": 4}
BOTH = {"data": 2, "tensor": 2}
COUNTED = {"family": "modernbert", "position_init": "neighbours", "word_init": "bigrams"}
EVALUATED = {"eval": {"every": 4}, "model": {"num_hidden_layers": 1, **COUNTED}, **EXACT}
CHECKPOINTS = {"checkpoint": {"every": 2}, **EVALUATED}
SPIKE = {"factor": 2.0, "window": 2, "skip": 0}
MEMBERS = {"seeds": 2, "epochs": 1, **EXACT}
"""Two runs, spread over four devices: by member and by data."""


class Launches:
    """The process of tests/faults/several.py, which forks those of each launch."""

    def __init__(self, root: Path):
        shared = {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
        }
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.several", str(root)],
            cwd=ROOT,
            env={**os.environ, **shared},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def launch(self, **launches: tuple[tuple[int, int], list[dict]]) -> dict[str, list[int]]:
        """Start processes without a launcher, of several launches at once.

        Args:
          launches: by name: numbers of processes and of the devices of each, and the runs.

        Returns:
          The exit statuses by launch.
        """
        asked = []
        for name, ((count, devices), runs) in launches.items():
            environments = environments_of(count, devices, {"JAX_PLATFORMS": "cpu"})
            heartbeat = {"UNMASK_HEARTBEAT_SECONDS": "10" if runs[-1].get("fault") == "SIGSTOP" else "30"}
            environments = [each | heartbeat for each in environments]
            asked.append({"name": name, "environments": environments, "devices": devices, "runs": runs})
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        return dict(zip(launches, json.loads(self._server.stdout.readline()), strict=True))

    def close(self) -> None:
        self._server.communicate()


def output(root: Path, name: str, number: int) -> str:
    return (root / f"{name}.{number}.log").read_text()


def records(root: Path, name: str) -> list[dict]:
    """What each process recorded of a run."""
    return [json.loads(path.read_text()) for path in sorted((root / "records").glob(f"{name}.*.json"))]


def losses(workdir: Path) -> dict[str, dict[int, float]]:
    """train/loss and eval/loss by step."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {
        name: {line["step"]: line[name] for line in lines if name in line}
        for name in ("train/loss", "eval/loss")
    }


def fed(root: Path, *names: str) -> list[dict[str, str]]:
    """The rows of each batch of a run in its parts, put together from all processes, as digests."""
    batches = []
    for name in names:
        for parts in zip(*(each["fed"] for each in records(root, name)), strict=True):
            batch: dict[str, str] = {}
            for part in parts:
                assert all(batch.get(row, digest) == digest for row, digest in part.items())
                batch |= part
            batches.append(dict(sorted(batch.items(), key=lambda item: int(item[0]))))
    return batches


def leaves(params) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def run(name: str, changes: dict, **where) -> dict:
    return {"name": name, "changes": changes, **where}


CHAIN = {
    "a": (
        (2, 2),
        [
            run("fsdp", {"mesh": FSDP, **CHECKPOINTS}),
            run("members", {"mesh": DATA, **MEMBERS}, stage="finetune"),
            run("stop-1", {"mesh": DATA, **EVALUATED}, workdir="stop", process=1, step=1, fault="SIGTERM"),
            run("kill-1", {"mesh": FSDP, **CHECKPOINTS}, workdir="kill", process=1, step=5, fault="SIGKILL"),
        ],
    ),
    "b": (
        (4, 1),
        [
            run("both", {"mesh": BOTH, **EVALUATED}),
            run("stop-2", {"mesh": DATA, **EVALUATED}, workdir="stop", process=3, step=4, fault="SIGTERM"),
            run("error", {"mesh": DATA, **EVALUATED}, process=2, step=3, fault="error"),
        ],
    ),
    "c": (
        (2, 2),
        [
            run("other", {"mesh": DATA}, process=1, fault="other", extra={"steps": 9}),
            run("stop-3", {"mesh": DATA, **EVALUATED}, workdir="stop"),
            run("spike", {"mesh": DATA, **CHECKPOINTS, "spike": SPIKE}, step=5, fault="spike"),
            run("kill-2", {"mesh": FSDP, **CHECKPOINTS}, workdir="kill", process=0, step=7, fault="SIGKILL"),
        ],
    ),
    "d": (
        (2, 2),
        [
            run("kill-3", {"mesh": FSDP, **CHECKPOINTS}, workdir="kill"),
            run("elsewhere", {"mesh": DATA}, workdir="stop", process=1, fault="elsewhere"),
            run("mistake", {"mesh": FSDP, **CHECKPOINTS}, process=1, step=2, fault="mistake"),
        ],
    ),
}
"""A launch ends with its last run; how processes end that succeed: tests/pretrain/test_processes.py."""
LATE_ONES = {
    "e": ((2, 2), [run("frozen-1", {"mesh": FSDP, **CHECKPOINTS}, process=1, step=3, fault="SIGSTOP")]),
    "f": ((2, 2), [run("frozen-0", {"mesh": FSDP, **CHECKPOINTS}, process=0, step=3, fault="SIGSTOP")]),
    "g": ((2, 2), [run("asleep", {"mesh": FSDP, **CHECKPOINTS}, process=1, step=4, fault="sleep")]),
}
"""Launches in which a process gives no sign of life, or hangs; all at once, since they mostly wait."""


@pytest.fixture(scope="module")
def launches(tmp_path_factory):
    """The folder of all runs, and the exit statuses of the processes of each launch."""
    root = tmp_path_factory.mktemp("several")
    write_corpus(root / "text.txt")
    (root / "elsewhere").mkdir()
    with mock.patch.object(tiny_task, "LAYERS", 1):
        (root / "task").mkdir()
        tiny_finetune(root / "task")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pretrain.job.make_mesh", lambda config: make_mesh(config, jax.devices()[:4]))
        fed_by_one = []
        feed = pretraining.to_devices

        def feeding(arrays, *rest):
            fed_by_one.append(digests(arrays["tokens"], range(8)))
            return feed(arrays, *rest)

        patch.setattr(pretraining, "to_devices", feeding)
        pretraining.train(tiny_config(root / "text.txt", mesh=DATA, **EVALUATED), epath.Path(root / "one"))
    (root / "records").mkdir()
    (root / "records" / "one.0.json").write_text(json.dumps({"fed": fed_by_one}))
    statuses = {}
    with contextlib.closing(Launches(root)) as started:
        for name, launch in CHAIN.items():
            statuses |= started.launch(**{name: launch})
            if name == "a":
                shutil.copytree(root / "stop", root / "stopped")
        statuses |= started.launch(**LATE_ONES)
    return root, statuses


pytestmark = pytest.mark.slow


def test_every_process_ends_as_it_should(launches):
    root, statuses = launches
    logs = {
        name: [output(root, name, number) for number in range(len(each))] for name, each in statuses.items()
    }
    assert statuses["a"][1] == -signal.SIGKILL and statuses["a"][0] not in (0, -signal.SIGKILL), logs["a"]
    # Gloo notices most closed connections at once; where it does not, silence tells.
    assert re.search(
        r"^error: process 1 (of the run is gone|is late: no sign of life for \d+ s)", logs["a"][0], re.M
    ), logs["a"]
    assert statuses["b"] == [1, 1, 1, 1], logs["b"]
    assert statuses["c"][0] == -signal.SIGKILL and statuses["c"][1] not in (0, -signal.SIGKILL), logs["c"]
    assert statuses["d"] == [2, 2], logs["d"]
    assert statuses["e"] == [LATE, -signal.SIGKILL], logs["e"]
    assert statuses["f"] == [-signal.SIGKILL, LATE], logs["f"]
    assert statuses["g"] == [LATE, LATE], logs["g"]


@pytest.mark.parametrize("name", ["stop", "fsdp", "both"])
def test_losses_and_evaluations_are_those_of_one_process(name, launches):
    root, _ = launches
    expected, found = losses(root / "one"), losses(root / name)
    assert list(found["train/loss"]) == list(range(1, 9))
    assert list(found["eval/loss"]) == [4, 8]
    for metric, values in expected.items():
        np.testing.assert_allclose(list(found[metric].values()), list(values.values()), rtol=1e-5)


def test_a_population_spread_over_processes_scores_as_on_one(launches):
    root, _ = launches
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "finetune.population.state.make_mesh",
            lambda config, devices: make_mesh(config, jax.devices()[:4]),
        )
        config = tiny_finetune(root / "task", mesh=DATA, **MEMBERS)
        workdir = epath.Path(root / "members of one")
        expected = finish(finetune(config, workdir), workdir)
    first, second = records(root, "members")
    assert first == second == json.loads((root / "members" / "results.json").read_text())
    for mine, theirs in zip(expected["runs"], first["runs"], strict=True):
        np.testing.assert_allclose(
            list(theirs["metrics"].values()), list(mine["metrics"].values()), rtol=1e-5
        )
    assert {path.name for path in (root / "members" / "model").iterdir()} == {
        path.name for path in (root / "members of one" / "model").iterdir()
    }


def test_a_process_reads_its_own_streams_only(launches):
    root, _ = launches
    assert [each["streams"] for each in records(root, "stop-1")] == [[0, 1], [2, 3]]
    assert [each["streams"] for each in records(root, "stop-2")] == [[0], [1], [2], [3]]
    # Where the tensor axis crosses processes several hold the same rows, and read them.
    assert [each["streams"] for each in records(root, "both")] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert fed(root, "both") == fed(root, "one")


def test_sigterm_to_one_stops_all_after_the_same_step_with_one_checkpoint(launches):
    root, _ = launches
    # Seen while a step was under way, carried by the next, and read when the one after that was.
    assert [(each["step"], each["interrupted"]) for each in records(root, "stop-1")] == [(3, "SIGTERM")] * 2
    assert [(each["step"], each["interrupted"]) for each in records(root, "stop-2")] == [(6, "SIGTERM")] * 4
    assert [path.name for path in (root / "stopped" / "checkpoints").iterdir()] == ["3"]
    assert newest_step(root / "stopped") == 3
    assert not (root / "stopped" / "finished.json").exists()


def test_a_run_goes_on_with_other_processes_and_the_same_batches(launches):
    """2 x 2, then 4 x 1, then 2 x 2."""
    root, _ = launches
    assert [each["step"] for each in records(root, "stop-3")] == [8, 8]
    assert fed(root, "stop-1", "stop-2", "stop-3") == fed(root, "one")
    assert json.loads((root / "stop" / "finished.json").read_text()) == {"step": 8, "steps": 8}


def test_the_survivors_of_a_kill_end_and_the_run_goes_on_to_the_bit(launches):
    root, _ = launches
    assert [each["step"] for each in records(root, "kill-3")] == [8, 8]
    assert losses(root / "kill")["train/loss"] == losses(root / "fsdp")["train/loss"]
    for found, expected in zip(
        leaves(restore_params(root / "kill")[0]), leaves(restore_params(root / "fsdp")[0]), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_all_go_back_from_a_loss_spike_and_skip_the_same_batches(launches):
    root, _ = launches
    one = fed(root, "one")
    assert fed(root, "spike")[:9] == [*one[:6], *one[5:8]]
    assert [each["step"] for each in records(root, "spike")] == [8, 8]
    said = [output(root, "c", number) for number in range(2)]
    for each in said:
        assert each.count("; going back to step 4 and skipping the batch of step 5") == 1


def test_an_exception_in_one_ends_all_and_its_traceback_is_shown_once(launches):
    root, statuses = launches
    assert statuses["b"] == [1, 1, 1, 1]
    shown = [output(root, "b", number) for number in range(4)]
    assert "ArithmeticError: something broke in this process only" in shown[2]
    for number in (0, 1, 3):
        assert "Traceback" not in shown[number]
        assert shown[number].count("process 2 has failed (exit status 1): this one ends too") == 1


@pytest.mark.parametrize(("launch", "stopped"), [("e", 1), ("f", 0)])
def test_a_process_that_is_stopped_is_named_by_the_other(launch, stopped, launches):
    root, _ = launches
    shown = output(root, launch, 1 - stopped)
    assert re.search(
        rf"^error: process {stopped} is late: no sign of life for 10.* s, the last at '.*step \d': the run is ended; ",
        shown,
        re.MULTILINE,
    ), shown
    assert shown.count("Thread 0x") > 1 and "in run" in shown


def test_a_process_that_sleeps_is_named_by_all_and_each_shows_its_stacks(launches):
    root, _ = launches
    shown = [output(root, "g", number) for number in range(2)]
    for each in shown:
        assert re.search(
            r"^error: .*process 1 is late: at 'step 4' for .* s; (others are at '|process 0 waits)",
            each,
            re.M,
        ), each
        assert each.count("Thread 0x") > 1
    assert "in happen" in shown[1]


def test_a_mistake_met_by_one_is_one_line_shown_once(launches):
    root, _ = launches
    shown = [output(root, "d", number) for number in range(2)]
    assert "error: line 3 of text.txt is not text\n" in shown[1]
    assert not any("Traceback" in each for each in shown)
    assert "error:" not in shown[0]


def test_processes_that_were_given_another_config_are_refused_before_the_first_step(launches):
    root, _ = launches
    refused = (
        "the processes of the run disagree: config.steps is 8 on process 0 and 9 on process 1; "
        "start all with the same command, and a --workdir that all of them share"
    )
    assert records(root, "other") == [{"refused": refused}] * 2
    assert not (root / "other").exists()


def test_processes_that_see_other_checkpoints_are_refused_before_the_first_step(launches):
    root, _ = launches
    refused = (
        "the processes of the run disagree: the newest checkpoint is 8 on process 0 and 0 on process 1; "
        "start all with the same command, and a --workdir that all of them share"
    )
    assert records(root, "elsewhere") == [{"refused": refused}] * 2


def test_one_process_exports_the_checkpoint_of_several(launches, tmp_path):
    root, _ = launches
    assert export(root / "stop", epath.Path(tmp_path / "here")).step == 8
    arguments = [f"--workdir={root / 'stop'}", f"--out={tmp_path / 'there'}"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "launch.local",
            "-n",
            "2",
            "--",
            sys.executable,
            "-m",
            "pretrain.export",
            *arguments,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("holds step 8") == 1
    here, there = (tmp_path / place / "model.safetensors" for place in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()
