"""Fine-tuning end to end: it learns, members are the runs they stand for, and a run goes on exactly."""

import dataclasses
import json
import logging
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from etils import epath

from base.errors import UserError
from finetune.job import assemble
from finetune.results.final_outputs import finish
from finetune.results.results_file import results
from finetune.train import train
from pretrain.reports.metric_writer import read_metrics
from pretrain.reports.recorder import Recorder
from tests.finetune.tiny_task import tiny_finetune, write_examples, write_model

AT_THE_END = {"every": 1 << 30}
CONSTANT = {"name": "constant"}
"""For runs of any length to share one step."""


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    tiny_finetune(folder)
    return folder


def run(config, workdir):
    return train(config, epath.Path(workdir))


def params_of(outcome, member=0):
    return jax.tree.map(lambda array: np.asarray(array)[member], outcome.state.params)


def assert_equal(ours, theirs, **tolerance):
    """Params agree, but for the keys' biases: softmax takes them out, and AdamW moves them by rounding errors alone."""

    def compare(path, a, b):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if not name.endswith("key.bias"):
            np.testing.assert_allclose(a, b, **tolerance, err_msg=name)

    jax.tree_util.tree_map_with_path(compare, ours, theirs)


def logged(workdir):
    """What a run has logged, but for its speed."""
    lines = read_metrics(workdir / "metrics.jsonl")
    speeds = {"train/tokens_per_second", "train/examples_per_second", "train/goodput"}
    return [{name: value for name, value in line.items() if name not in speeds} for line in lines]


@pytest.fixture(scope="module")
def complete(task, tmp_path_factory) -> SimpleNamespace:
    """A run of one epoch with its outputs: to be read; a test that goes on from it copies the workdir."""
    workdir = epath.Path(tmp_path_factory.mktemp("complete"))
    config = tiny_finetune(task, epochs=1, seeds=2)
    outcome = run(config, workdir)
    found = finish(outcome, workdir)
    return SimpleNamespace(config=config, workdir=workdir, outcome=outcome, found=found)


def test_without_a_validation_file_a_share_of_train_is_evaluated_on(task):
    config = tiny_finetune(task, data={"validation": ""})
    job, again = assemble(config), assemble(dataclasses.replace(config, seed=5))
    assert (len(job.train), len(job.evaluations[0].encoded)) == (46, 4)
    assert job.fingerprints == again.fingerprints
    np.testing.assert_array_equal(job.evaluations[0].encoded.tokens, again.evaluations[0].encoded.tokens)
    with pytest.raises(
        UserError, match=r"config\.data\.validation is empty and config\.data\.validation_share=0, so"
    ):
        assemble(tiny_finetune(task, data={"validation": "", "validation_share": 0.0}))
    with pytest.raises(UserError, match=r"^config\.data\.train is empty; set it to the files to train on$"):
        assemble(tiny_finetune(task, data={"train": "", "label_names": ["animal", "none"]}))


def test_it_learns_and_its_results_say_so(task, tmp_path):
    # Evaluated on its own examples: what is to be seen is that it fits them.
    data = {"validation": str(task / "train.csv")}
    config = tiny_finetune(task, epochs=15, data=data, eval=AT_THE_END, checkpoint=AT_THE_END)
    outcome = run(config, tmp_path)
    found = finish(outcome, epath.Path(tmp_path))
    (member,) = found["runs"]
    assert member["metrics"]["accuracy"] > 0.85
    assert found == json.loads((tmp_path / "results.json").read_text())
    lines = read_metrics(tmp_path / "metrics.jsonl")
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses) == outcome.step == 15 * 7
    assert np.mean(losses[-7:]) < 0.6 * np.mean(losses[:7])


def test_a_member_is_the_run_of_its_seed_and_learning_rate(task, tmp_path):
    changes = {"init_from": str(write_model(tmp_path)), "checkpoint": AT_THE_END}
    config = tiny_finetune(task, seeds=2, learning_rates=[3e-3, 1e-3], seed=3, **changes)
    together = run(config, tmp_path / "together")
    assert [(m.seed, m.learning_rate) for m in config.members] == [(3, 3e-3), (4, 3e-3), (3, 1e-3), (4, 1e-3)]
    for index in (1, 2):  # the other seed, and the other learning rate
        member = config.members[index]
        rate = {"learning_rate": member.learning_rate}
        alone = run(tiny_finetune(task, seed=member.seed, optimizer=rate, **changes), tmp_path / str(index))
        assert_equal(params_of(together, index), params_of(alone), rtol=1e-4, atol=1e-5)
        ours = [each["members"][index]["loss"] for each in together.tracking.history]
        theirs = [each["members"][0]["loss"] for each in alone.tracking.history]
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    first, second = (params_of(together, index)["head"]["out"]["kernel"] for index in (0, 1))
    assert np.abs(first - second).max() > 1e-3


@pytest.fixture(scope="module")
def on_any_mesh(task, tmp_path_factory):
    """What runs on several meshes have in common, and such a run with one device for each member."""
    folder = tmp_path_factory.mktemp("meshes")
    changes = {"seeds": 2, "epochs": 1, "checkpoint": AT_THE_END, "init_from": str(write_model(folder))}
    return changes, run(tiny_finetune(task, **changes), folder / "run")


@pytest.mark.parametrize("mesh", [{"data": 8}, {"data": 2, "fsdp": 4}, {"data": 4, "tensor": 2}])
def test_the_same_losses_on_any_mesh(on_any_mesh, task, tmp_path, mesh):
    changes, one = on_any_mesh
    other = run(tiny_finetune(task, **changes, mesh=mesh), tmp_path / "mesh")
    assert (one.job.mesh.size, other.job.mesh.size) == (2, 8)
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(
            [m[name] for m in one.tracking.history[-1]["members"]],
            [m[name] for m in other.tracking.history[-1]["members"]],
            rtol=1e-5,
        )


def test_the_last_line_has_the_rate_of_its_own_steps_and_compiling_is_said(task, tmp_path, caplog):
    with caplog.at_level("INFO"):
        outcome = run(tiny_finetune(task, steps=5, log={"every": 4}, schedule=CONSTANT), tmp_path / "run")
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "train/loss" in line]
    assert outcome.step == 5 and [line["step"] for line in lines] == [4, 5]
    assert all(
        line["train/tokens_per_second"] > 0 and line["train/examples_per_second"] > 0 for line in lines
    )
    assert all(0 < line["train/goodput"] < 1 for line in lines)
    assert len([message for message in caplog.messages if message.startswith("goodput ")]) == 1
    said = [message for message in caplog.messages if message.startswith("compiling")]
    assert said == ["compiling the train step for rows of 48 tokens ...", "compiling the evaluation ..."]


def test_accumulation_equals_the_large_batch(task, tmp_path):
    no_dropout = {
        "model": {"dropout": 0.0, "attention_dropout": 0.0},
        "epochs": 1,
    }
    whole = run(tiny_finetune(task, **no_dropout), tmp_path / "whole")
    parts = run(tiny_finetune(task, **no_dropout, grad_accum=4), tmp_path / "parts")
    assert_equal(params_of(whole), params_of(parts), rtol=1e-4, atol=1e-5)


def test_a_stopped_run_goes_on_to_the_bit(task, tmp_path, monkeypatch):
    config = tiny_finetune(task, seeds=2, epochs=2, lengths=[24, 48], log={"every": 3}, eval={"every": 3})
    whole = run(config, tmp_path / "whole")

    record = Recorder.step

    def stop_at_step_five(self, step, metrics, *, waited):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        record(self, step, metrics, waited=waited)

    monkeypatch.setattr(Recorder, "step", stop_at_step_five)
    stopped = run(config, tmp_path / "parts")
    assert (stopped.step, stopped.interrupted) == (5, "SIGTERM")
    monkeypatch.undo()
    resumed = run(config, tmp_path / "parts")
    assert resumed.step == whole.step and not resumed.interrupted
    jax.tree.map(np.testing.assert_array_equal, resumed.state, whole.state)
    assert resumed.tracking == whole.tracking
    for folder in ("", "runs/seed0", "runs/seed1"):
        assert logged(tmp_path / "parts" / folder) == logged(tmp_path / "whole" / folder)


@pytest.mark.parametrize("name", ["adafactor", "muon"])
def test_other_optimizers_train_a_population_for_so_many_steps(task, tmp_path, name):
    changes = {"steps": 3, "optimizer": {"name": name}, "schedule": {"warmup_steps": 1}}
    both = run(tiny_finetune(task, seeds=2, **changes), tmp_path / "both")
    alone = run(tiny_finetune(task, seed=1, **changes), tmp_path / "alone")
    assert both.step == alone.step == 3
    assert_equal(params_of(both, 1), params_of(alone), rtol=1e-5, atol=1e-5)
    last = [line for line in logged(tmp_path / "alone") if "train/loss" in line][-1]
    assert np.isfinite(last["train/loss"])


def test_the_best_model_is_kept_and_restored(task, tmp_path):
    # A learning rate that ruins the model towards the end of its warm-up: the first evaluations are the best.
    config = tiny_finetune(
        task,
        epochs=6,
        optimizer={"learning_rate": 0.5, "clip_norm": 0.0},
        schedule={"warmup_ratio": 1.0},
        eval={"metric": "loss"},
    )
    outcome = run(config, tmp_path)
    (best,) = outcome.tracking.best
    losses = [each["members"][0]["loss"] for each in outcome.tracking.history]
    assert best == int(np.argmin(losses)) < len(losses) - 1
    found = finish(outcome, epath.Path(tmp_path))
    assert found["runs"][0]["metrics"]["loss"] == losses[best]
    last = dataclasses.replace(config, eval=dataclasses.replace(config.eval, restore_best=False))
    ended = dataclasses.replace(outcome, job=dataclasses.replace(outcome.job, config=last))
    assert results(ended)["runs"][0]["metrics"]["loss"] == losses[-1]


def test_it_stops_early_when_nothing_gets_better(task, tmp_path):
    config = tiny_finetune(
        task, epochs=20, optimizer={"learning_rate": 1e-9}, eval={"patience": 2, "every": 2}
    )
    outcome = run(config, tmp_path)
    history = outcome.tracking.history
    assert len(history) - 1 - outcome.tracking.best[0] == 2
    assert outcome.step == history[-1]["step"] < outcome.job.steps
    again = run(config, tmp_path)
    assert again.step == outcome.step


def test_a_run_that_is_complete_is_not_run_again(complete):
    again = run(complete.config, complete.workdir)
    assert again.step == complete.outcome.step
    jax.tree.map(np.testing.assert_array_equal, again.state, complete.outcome.state)


def test_scores_are_learned_by_regression(tmp_path):
    write_model(tmp_path)
    write_examples(tmp_path / "train.csv", 50, kind="scores")
    data = {"regression": True, "validation": str(tmp_path / "train.csv")}
    outcome = run(
        tiny_finetune(tmp_path, epochs=20, data=data, eval=AT_THE_END, checkpoint=AT_THE_END),
        tmp_path / "run",
    )
    found = finish(outcome, epath.Path(tmp_path / "run"))
    assert found["metric"] == "pearson_spearman"
    assert found["runs"][0]["metrics"]["pearson"] > 0.7
    assert json.loads((tmp_path / "run/model/config.json").read_text())["problem_type"] == "regression"


@pytest.mark.filterwarnings("ignore")
def test_transformers_loads_the_best_model_and_agrees(complete):
    import torch
    import transformers

    outcome, found, folder = complete.outcome, complete.found, complete.workdir / "model"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == {0: "animal", 1: "none"}
    examples = outcome.job.data.evaluations["validation"]
    inputs = tokenizer(examples.first, padding=True, truncation=True, max_length=48, return_tensors="pt")
    with torch.no_grad():
        guesses = model.eval()(**inputs).logits.argmax(1).numpy()
    assert (
        float(np.mean(guesses == examples.labels)) == found["runs"][found["best_run"]]["metrics"]["accuracy"]
    )


def test_another_config_is_refused_in_the_same_workdir(complete):
    with pytest.raises(UserError, match=r"config\.global_batch was 8, is 16"):
        run(dataclasses.replace(complete.config, global_batch=16), complete.workdir)


def test_an_accepted_change_goes_on_with_the_new_values_but_the_start_and_the_runs_are_fixed(
    complete, task, tmp_path, caplog
):
    workdir, first = epath.Path(tmp_path / "run"), complete.found
    shutil.copytree(complete.workdir, workdir)
    longer = tiny_finetune(task, epochs=2, seeds=2)
    with pytest.raises(UserError, match=r"epochs was 1, is 2\. .* or pass --accept_changes to go on with"):
        run(longer, workdir)
    assert (workdir / "finished.json").exists() and (workdir / "results.json").exists()
    outcome = train(longer, workdir, accept_changes=True)
    assert "config.epochs changes from 1 to 2 at step 7" in caplog.text
    assert outcome.step == 14 and [each["step"] for each in outcome.tracking.history] == [7, 14]
    # What said that the run had finished is gone until it has.
    assert not (workdir / "finished.json").exists() and not (workdir / "results.json").exists()
    found = finish(outcome, workdir)
    assert (first["steps"], found["steps"]) == (7, 14)
    assert json.loads((workdir / "finished.json").read_text()) == {"step": 14, "steps": 14}
    for changes, what in (
        ({"seeds": 3}, "The number of runs that are trained together"),
        ({"learning_rates": [1e-3, 1e-4]}, "The number of runs that are trained together"),
        ({"init_from": "elsewhere"}, "The model that a run starts from"),
        ({"eval": {"metric": "loss"}}, "The metric that chooses the best model"),
    ):
        with pytest.raises(UserError, match=f"{what} cannot change: undo the change"):
            train(tiny_finetune(task, **{"epochs": 2, "seeds": 2, **changes}), workdir, accept_changes=True)


def test_changed_examples_are_refused_in_the_same_workdir_and_accepted_where_that_is_said(tmp_path, caplog):
    config = tiny_finetune(tmp_path, steps=2, schedule=CONSTANT)
    run(config, tmp_path / "run")
    write_examples(tmp_path / "train.csv", 50, seed=5)
    with pytest.raises(UserError, match=r"examples or the tokenizer .* have changed"):
        run(config, tmp_path / "run")
    assert train(config, epath.Path(tmp_path / "run"), accept_changes=True).step == 2
    assert "the examples or the tokenizer have changed; the run goes on with what is there" in caplog.text


def test_steps_are_compiled_and_their_memory_is_said_before_the_first(task, tmp_path, caplog, monkeypatch):
    said = []
    record = Recorder.step

    def noting(self, step, metrics, *, waited):
        if step == 1:
            said.extend(caplog.messages)
        record(self, step, metrics, waited=waited)

    monkeypatch.setattr(Recorder, "step", noting)
    with caplog.at_level("INFO"):
        run(tiny_finetune(task, epochs=1, lengths=[24, 48], eval={"every": 100}), tmp_path)
    assert [each for each in said if each.startswith("compiling")] == [
        "compiling the train step for rows of 24 tokens ...",
        "compiling the train step for rows of 48 tokens ...",
    ]
    assert sum("compiling the train step" in each for each in caplog.messages) == 2
    (memory,) = [each for each in said if each.startswith("memory per device: ")]
    assert all(part in memory for part in ("params ", "optimizer ", "step "))


def test_the_profile_starts_where_it_is_set(task, tmp_path, monkeypatch, caplog):
    happened = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda folder: happened.append(folder))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: happened.append("stop"))
    record = Recorder.step

    def noting(self, step, metrics, *, waited):
        happened.append(step)
        record(self, step, metrics, waited=waited)

    monkeypatch.setattr(Recorder, "step", noting)
    short = {"steps": 5, "schedule": CONSTANT}
    run(tiny_finetune(task, **short, log={"profile_start": 2, "profile_steps": 2}), tmp_path / "1")
    assert happened == [1, 2, str(tmp_path / "1" / "profile"), 3, 4, "stop", 5]
    with caplog.at_level("INFO"):
        run(tiny_finetune(task, **short, log={"profile_start": 5, "profile_steps": 2}), tmp_path / "1")
    assert "without effect: config.log.profile_start=5; the run ends before, at step 5" in caplog.messages


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": ""}, r"set config\.init_from"),
        ({"global_batch": 7}, r"config\.global_batch=7 .* do not divide"),
        ({"grad_accum": 3}, r"not a multiple of config\.grad_accum=3"),
        (
            {"max_length": 100},
            r"config\.max_length=100 is longer than the model's positions; set it to 64 or less",
        ),
        ({"max_length": 4}, r"config\.max_length=4 leaves no room"),
        ({"lengths": [8]}, r"config\.lengths=\[8\] does not hold the longest example"),
        ({"eval": {"metric": "f2"}}, r"config\.eval\.metric='f2' is not a metric"),
        (
            {"optimizer": {"learning_rate": 0.0}},
            r"0\.0 should be above 0; set config\.optimizer\.learning_rate",
        ),
        ({"learning_rates": [1e-3, -1.0]}, r"-1\.0 should be above 0; set config\.learning_rates"),
        ({"optimizer": {"clip_norm": -1.0}}, "config.optimizer.clip_norm=-1.0 should be 0"),
        ({"optimizer": {"layer_decay": 1.5}}, r"config\.optimizer\.layer_decay=1\.5"),
        ({"data": {"label": "lable"}}, "lable"),
        ({"epochs": 0}, r"config\.epochs=0 should be 1 or more"),
    ],
)
def test_bad_input_is_one_line(task, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        run(tiny_finetune(task, **changes), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_examples_that_are_cut_are_counted(task, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run(tiny_finetune(task, steps=1, max_length=10, lengths=[]), tmp_path)
    assert any("examples are cut to config.max_length" in message for message in caplog.messages)
    with pytest.raises(UserError, match=r"another config: config\.max_length was 10, is 0\. "):
        run(tiny_finetune(task, steps=1, max_length=0, lengths=[]), tmp_path)
