"""config.log.trackers and config.log.project: what Weights & Biases, Trackio and MLflow are told, by stand-ins.

The stand-ins have the calls of wandb 0.31, trackio 0.43 and mlflow 3.17, with which the same code was tried.
"""

import json
import logging
import math
import sys

import pytest
from etils import epath

from base.errors import UserError
from pretrain.reports import trackers as module
from pretrain.reports.config import LogConfig, check_trackers
from pretrain.reports.metric_writer import MetricWriter

STAND_INS = {
    "wandb": """
calls = []
class Run:
    def define_metric(self, name, step_metric=None):
        calls.append(("define", name, step_metric))
    def log(self, values):
        calls.append(("log", values))
    def finish(self):
        calls.append(("finish",))
def init(**options):
    calls.append(("init", options))
    return Run()
""",
    "trackio": """
calls = []
class Run:
    def log(self, values, step):
        calls.append(("log", {**values, "step": step}))
    def finish(self):
        calls.append(("finish",))
def init(**options):
    calls.append(("init", options))
    return Run()
""",
    "mlflow/__init__": """
from types import SimpleNamespace
calls, experiments = [], {}
class MlflowClient:
    def get_experiment_by_name(self, name):
        return experiments.get(name)
    def create_experiment(self, name):
        experiments[name] = SimpleNamespace(experiment_id=f"experiment of {name}")
        return experiments[name].experiment_id
    def create_run(self, experiment, run_name):
        calls.append(("init", {"project": experiment, "name": run_name}))
        return SimpleNamespace(info=SimpleNamespace(run_id="run1"))
    def update_run(self, run_id, status):
        calls.append(("init", {"id": run_id, "status": status}))
    def log_batch(self, run_id, metrics=(), params=()):
        assert len(params) <= 100
        if params:
            assert not any(set(each.key) & set("[]") for each in params), "MLflow refuses these"
            calls.append(("params", {each.key: each.value for each in params}))
        if metrics:
            calls.append(("log", {**{each.key: each.value for each in metrics}, "step": metrics[0].step}))
    def set_terminated(self, run_id):
        calls.append(("finish",))
""",
    "mlflow/entities": """
from types import SimpleNamespace
def Metric(key, value, timestamp, step):
    return SimpleNamespace(key=key, value=value, step=step)
def Param(key, value):
    return SimpleNamespace(key=key, value=value)
""",
}


CONFIG = {"optimizer.name": "adamw", "phases[0].steps": 3}


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Puts a stand-in for a library on the path; returns the calls that it gets."""
    for name in [each for each in sys.modules if each.partition(".")[0] in module.MAKERS]:
        monkeypatch.delitem(sys.modules, name)
    for name in module.VARIABLES.values():
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "libraries"
    for name, code in STAND_INS.items():
        file = folder / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    yield lambda kind: __import__(kind).calls
    for name in [each for each in sys.modules if each.partition(".")[0] in module.MAKERS]:
        sys.modules.pop(name)


def write(workdir, kind, steps, *, resume_step=None, project=""):
    with MetricWriter(workdir, resume_step=resume_step, trackers=(kind,), project=project) as writer:
        if resume_step is None:
            writer.write_hyperparameters(CONFIG)
        for step in steps:
            writer.write(step, {"train/loss": float(step), "train/mfu": math.nan})


def logged(calls):
    return [call[1] for call in calls if call[0] == "log"]


@pytest.mark.parametrize("kind", module.MAKERS)
def test_a_run_that_goes_on_continues_the_trackers_run(kind, library, tmp_path):
    calls = library(kind)
    write(tmp_path / "run", kind, (1, 2), project="letters")
    write(tmp_path / "run", kind, (3,), resume_step=2, project="letters")
    assert logged(calls) == [
        {"train/loss": float(step), "step": step} for step in (1, 2, 3)
    ]  # NaN is left out
    assert [call[0] for call in calls].count("finish") == 2
    (name,) = json.loads((tmp_path / "run" / "trackers.json").read_text()).values()
    first, second = [call[1] for call in calls if call[0] == "init"]
    if kind == "mlflow":
        assert (first, name) == ({"project": "experiment of letters", "name": "run"}, "run1")
        assert second == {"id": "run1", "status": "RUNNING"}
        assert ("params", {"optimizer.name": "adamw", "phases.0.steps": "3"}) in calls
    else:
        key = {"wandb": "id", "trackio": "name"}[kind]
        assert first[key] == second[key] == name and first["resume"] == second["resume"] == "allow"
        assert first["project"] == "letters"
        assert (first["config"], second["config"]) == (CONFIG, {})


def test_a_config_that_mlflow_refuses_is_one_line(library, tmp_path, monkeypatch, caplog):
    calls = library("mlflow")
    client = sys.modules["mlflow"].MlflowClient
    log = client.log_batch

    def refusing(self, run_id, metrics=(), params=()):
        if params:
            raise ValueError("a param may not change")
        log(self, run_id, metrics)

    monkeypatch.setattr(client, "log_batch", refusing)
    write(tmp_path, "mlflow", (1, 2))
    said = "the config of the run of mlflow could not be written: a param may not change"
    assert [record.message for record in caplog.records] == [said]
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"mlflow": "run1"}
    assert [each["step"] for each in logged(calls)] == [1, 2] and calls[-1] == ("finish",)
    write(tmp_path, "mlflow", (1,))  # a run that begins again goes on in the tracker's
    assert len(caplog.records) == 1


def test_steps_of_wandb_are_a_metric_so_that_a_run_may_go_back(library, tmp_path):
    calls = library("wandb")
    write(tmp_path, "wandb", (1, 2))
    assert ("define", "*", "step") in calls
    assert calls[0][1]["dir"] == str(tmp_path)


def test_a_project_is_the_configs_or_the_environments_or_ours(library, tmp_path, monkeypatch):
    calls = library("wandb")
    write(tmp_path / "a", "wandb", (1,))
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    write(tmp_path / "b", "wandb", (1,))
    write(tmp_path / "c", "wandb", (1,), project="mine")
    assert [call[1]["project"] for call in calls if call[0] == "init"] == ["unmask", "theirs", "mine"]


def test_each_run_of_a_population_is_named_after_its_workdir_too():
    assert module._title(epath.Path("/x/mrpc/runs/seed0")) == "mrpc/seed0"
    assert module._title(epath.Path("/x/base")) == "base"


def test_a_tracker_that_fails_costs_two_lines_and_no_metric(library, tmp_path, monkeypatch, caplog):
    library("wandb")

    def no_key(**options):
        raise RuntimeError("no key")

    monkeypatch.setattr(sys.modules["wandb"], "init", no_key)
    with caplog.at_level(logging.WARNING):
        write(tmp_path, "wandb", range(1, 6))
    assert [record.message for record in caplog.records] == [
        "wandb could not be written: no key",
        "wandb gets no more of this run; metrics.jsonl has everything",
    ]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5


def test_a_tracker_that_hangs_does_not_hold_up_the_end(library, tmp_path, monkeypatch, caplog):
    library("wandb")
    import threading

    gate = threading.Event()
    monkeypatch.setattr(sys.modules["wandb"], "init", lambda **options: gate.wait())
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.05)
    write(tmp_path, "wandb", (1,))
    gate.set()
    assert "wandb is still at work; the run does not wait for it" in caplog.text


@pytest.mark.parametrize(
    ("trackers", "said"),
    [(("wandbb",), "'wandbb' should be one of tensorboard"), (("wandb",) * 2, "names wandb twice")],
)
def test_an_unknown_tracker_is_refused(trackers, said):
    with pytest.raises(UserError, match=said):
        check_trackers(LogConfig(trackers=trackers))


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    module.check_installed(("tensorboard",))
    with pytest.raises(UserError, match=r"wandb, which is not installed: pip install .*\[wandb\]"):
        module.check_installed(("tensorboard", "wandb"))


def test_tensorboard_is_left_out_where_it_is_not_named(tmp_path):
    with MetricWriter(tmp_path, trackers=()) as writer:
        writer.write(1, {"train/loss": 1.0})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
