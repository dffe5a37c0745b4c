"""The Python API: the examples of its page run, its functions of the user's own act, and mistakes are one line."""

import contextlib
import logging
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from etils import epath

import unmask
from finetune import job
from finetune.classifier.inference import Facts
from finetune.kinds import CLASSES
from finetune.population.state import population_mesh
from finetune.results import final_outputs
from pretrain.runtime.train_command import PACKAGES
from tests.finetune.tiny_task import tiny_finetune
from tests.tiny import on_one_device
from unmask import training

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def _one_device():
    """Not by `monkeypatch`: that pauses `tests.traced_once`, and what is traced does not call this."""
    for module in (job, final_outputs):
        module.population_mesh = lambda config, members: population_mesh(config, members, jax.devices()[:1])
    with on_one_device():
        yield
    for module in (job, final_outputs):
        module.population_mesh = population_mesh


@contextlib.contextmanager
def messages_as_before():
    """Leave the loggers as they were, for other tests."""
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [(each.level, each.propagate, list(each.handlers)) for each in loggers]
    yield
    for each, (level, propagate, handlers) in zip(loggers, before):
        each.level, each.propagate, each.handlers = level, propagate, handlers
        each.manager._clear_cache()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder like the repository's."""
    home = tmp_path_factory.mktemp("home")
    (home / "configs").symlink_to(ROOT / "configs")
    return home


@pytest.fixture(scope="module")
def examples(home) -> dict:
    """Run the page; what it defines."""
    names: dict = {}
    page = (ROOT / "docs/api.md").read_text()
    with pytest.MonkeyPatch.context() as patched, messages_as_before():
        patched.chdir(home)
        for block in BLOCK.findall(page):
            exec(compile(block, "docs/api.md", "exec"), names)
    return names


def test_the_examples_of_the_page_run(examples, home, monkeypatch):
    monkeypatch.chdir(home)
    result = examples["result"]
    assert len(result.runs) == 2 and result.metrics is result.best.metrics
    assert Path(result.model, "config.json").exists() and Path(result.report).exists()
    assert 0 <= result.summary[1e-3]["accuracy"].mean <= 1
    assert Path("hf/base/model.safetensors").exists() and examples["base"].step == 10
    answer = unmask.predict("runs/animals", ["a cat runs"])[0]
    assert answer.label in ("animal", "thing")
    answers = unmask.predict("runs/animals", np.array(["a cat runs", "a cat runs"]))
    assert [each.label for each in answers] == [answer.label] * 2
    assert sum(answer.probabilities.values()) == pytest.approx(1)


def test_own_metrics_choose_the_best_model_and_stand_in_results(examples):
    own = examples["own"]
    assert own.metric == "found"
    assert {"accuracy", "found", "margin", "loss"} <= set(own.metrics)
    assert all({"found", "margin"} <= set(run) for each in own.history for run in each["members"])


def test_a_run_that_is_complete_is_read_and_not_made_again(examples, home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setattr("finetune.train.train", None)
    train = examples["animals"] + examples["things"]
    validation = examples["animals"][:2] + examples["things"][:2]
    again = unmask.finetune(examples["config"], "runs/animals", train=train, validation=validation)
    assert again == examples["result"]
    by_its_whole_path = unmask.finetune(
        examples["config"], home / "runs/animals", train=train, validation=validation
    )
    assert by_its_whole_path.runs == again.runs


def test_other_examples_in_the_same_workdir_are_refused(examples, home, monkeypatch):
    monkeypatch.chdir(home)
    validation = examples["animals"][:2] + examples["things"][:2]
    with pytest.raises(unmask.UserError, match=r"config\.data\.train was .*, is "):
        unmask.finetune(
            examples["config"], "runs/animals", train=examples["animals"] + validation, validation=validation
        )


def rows(examples: dict) -> dict:
    validation = examples["animals"][:2] + examples["things"][:2]
    return {"train": examples["animals"] + examples["things"], "validation": validation}


def test_a_run_goes_on_with_the_metrics_that_it_has(examples, home, monkeypatch):
    monkeypatch.chdir(home)
    other = {
        "compute_metrics": lambda predictions, labels: {"found": 1.0, "new": 2.0},
        "overrides": {"eval.metric": "found"},
    }
    said = "compute_metrics gave found, margin, and now found, new. Give the same function, or set another workdir"
    with pytest.raises(unmask.UserError, match=re.escape(said)):
        unmask.finetune(examples["config"], "runs/own_metrics", **rows(examples), **other)
    with pytest.raises(unmask.UserError, match="compute_metrics gave none, and now found, new"):
        unmask.finetune(
            examples["config"],
            "runs/animals",
            **rows(examples),
            compute_metrics=other["compute_metrics"],
        )


def test_a_run_that_a_callback_has_ended_is_not_trained_on(examples, home, monkeypatch):
    monkeypatch.chdir(home)
    Path("runs/stopped/results.json").unlink()  # as if the call was killed before
    again = unmask.finetune(examples["config"], "runs/stopped", **rows(examples))
    assert again.history == examples["short"].history


def test_a_summary_has_the_learning_rates_of_the_runs():
    rate, scores = 2.3456789e-05, {"loss": 0.5}
    run = {"seed": 0, "learning_rate": rate, "step": 1, "epoch": 1.0, "metrics": scores}
    means = {f"{rate:g}": {"loss": {"best": 0.5, "mean": 0.5, "std": 0.0}}}
    more = {"metric": "loss", "best_run": 0, "history": [], "seconds": 1.0, "config": {}}
    found = training._result({"runs": [run], "summary": means, **more}, epath.Path("run"))
    assert found.summary[found.best.learning_rate]["loss"].mean == 0.5


def test_a_search_draws_from_hp_space_and_optimises_the_objective(examples):
    found = examples["found"]
    assert found.objective == "objective" and len(found.trials) == 2
    assert {"optimizer.learning_rate", "schedule.name"} == set(found.best.values)
    assert found.best.score == max(trial.score for trial in found.trials)
    assert found.config.schedule.name == found.best.values["schedule.name"]
    assert found.config.search.trials == 0
    assert examples["best"].config.optimizer.learning_rate == found.config.optimizer.learning_rate


def test_evaluation_takes_own_metrics(examples, home, monkeypatch):
    monkeypatch.chdir(home)
    found = unmask.evaluate(
        "runs/animals",
        examples["config"],
        validation=examples["animals"],
        compute_metrics=lambda predictions, labels: {"right": np.mean(predictions == labels)},
    )
    assert found.metrics["right"] == found.metrics["accuracy"]


def test_a_thread_that_is_not_the_main_one_trains_too(examples, home, monkeypatch):
    monkeypatch.chdir(home)
    made, train = [], examples["animals"] + examples["things"]
    thread = threading.Thread(
        target=lambda: made.append(
            unmask.finetune(examples["config"], "runs/thread", train=train, validation=train[6:10])
        )
    )
    thread.start()
    thread.join()
    assert made[0].runs[0].seed == 0


def test_an_interrupted_run_says_where_it_goes_on(examples, home, monkeypatch):
    monkeypatch.chdir(home)
    train = examples["animals"] + examples["things"]

    def stopping(evaluation):
        import signal

        if evaluation.epoch == 1:
            signal.raise_signal(signal.SIGINT)

    rows = {"train": train, "validation": train[6:10]}
    with pytest.raises(KeyboardInterrupt, match=r"SIGINT: step 2 is saved; call the function again"):
        unmask.finetune(examples["config"], "runs/interrupted", **rows, callbacks=[stopping])
    whole = unmask.finetune(examples["config"], "runs/interrupted", **rows)
    assert [each["step"] for each in whole.history] == [2, 4]


@pytest.mark.parametrize("callbacks", [print, ["print"]])
def test_callbacks_that_are_no_list_of_functions_are_refused_before_training(tmp_path, callbacks):
    with pytest.raises(unmask.UserError, match=r"callbacks should be a list of functions"):
        unmask.finetune("configs/glue.py:mrpc", tmp_path / "run", callbacks=callbacks)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("compute_metrics", "said"),
    [
        (lambda predictions, labels: 1 / 0, "compute_metrics failed: ZeroDivisionError: division by zero"),
        (dict, "compute_metrics failed: TypeError: dict expected at most 1 argument, got 2"),
        (lambda predictions, labels: 0.5, "compute_metrics gave float 0.5; it should give a dict of numbers"),
        (lambda predictions, labels: {"loss": 1.0}, "compute_metrics gave the name 'loss'"),
        (lambda predictions, labels: {"best": "yes"}, "compute_metrics gave best='yes', which is no number"),
    ],
)
def test_a_function_of_metrics_that_fails_is_one_line_before_training(tmp_path, compute_metrics, said):
    config = tiny_finetune(tmp_path)
    with pytest.raises(unmask.UserError, match=re.escape(said)) as raised:
        unmask.finetune(config, tmp_path / "run", compute_metrics=compute_metrics)
    assert "\n" not in str(raised.value)
    assert raised.value._render_traceback_() == [f"error: {raised.value}"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": "train.csv"}, "train is str; it should be a list of dicts or a datasets.Dataset"),
        ({"train": []}, "train is an empty list"),
        (
            {"train": [{"text": "a"}, {"label": "b"}]},
            "train row 2 has the fields label; it should have the fields text",
        ),
        ({"train": [{"text": "a"}, {"text": 1}]}, "train: the values of a field have several types"),
        ({"overrides": {"distributed": True}}, "a program runs in one process"),
        ({"overrides": {"optimizer": {"eps": 1e-6}}}, "config.optimizer is a group of fields"),
        ({"overrides": {"search.trials": 3, "search.epochs": [1, 2]}}, "unmask.search makes searches"),
        (
            {
                "validation": [{"text": "a", "label": "b"}],
                "config": {"data": {"source": "hub", "name": "a/b"}},
            },
            "validation are rows, and train is not given: rows stand in place of a whole data set",
        ),
        (
            {"compute_metrics": "accuracy", "train": None},
            "compute_metrics='accuracy' is str; it should be a function",
        ),
        ({"config": 3}, "config is int; it should be a recipe's file, a dict of fields, or a FinetuneConfig"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, changes, said):
    changes = dict(changes)
    config = changes.pop("config", None)
    if config is None and "compute_metrics" in changes:
        config = tiny_finetune(tmp_path)
    config = config or {"init_from": str(tmp_path / "model")}
    with pytest.raises(unmask.UserError, match=re.escape(said)):
        unmask.finetune(config, tmp_path / "run", **changes)


@pytest.mark.parametrize(
    ("functions", "said"),
    [
        ({"hp_space": lambda trial: {"optimizer.rate": 1.0}}, "config.optimizer.rate is not a field"),
        ({"hp_space": lambda trial: 3}, "hp_space gave 3; it should give a dict of values by fields"),
        ({"hp_space": lambda trial: {}["a"]}, "hp_space failed: KeyError"),
        ({"direction": "down"}, "direction='down' should be maximize or minimize"),
        ({"direction": "minimize"}, "direction='minimize' is of compute_objective, which is not given"),
        ({}, "the search has no range"),
    ],
)
def test_a_function_of_a_search_that_fails_is_one_line(tmp_path, functions, said):
    with pytest.raises(unmask.UserError, match=re.escape(said)):
        unmask.search(tiny_finetune(tmp_path), tmp_path / "run", trials=1, **functions)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ("a cat", "texts is the single text 'a cat'; give a list of texts"),
        (["a", ("b", "c")], "texts[1]=('b', 'c') should be a text"),
        (["a", None], "texts[1]=None is NoneType; it should be a text, a pair of texts, or a list of words"),
        (3, "texts is int; give a list of texts"),
    ],
)
def test_texts_that_a_model_does_not_take_are_refused(examples, home, texts, said):
    with pytest.raises(unmask.UserError, match=re.escape(said)):
        unmask.predict(home / "runs/animals", texts)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([("a", "b", "c")], "texts[0]=('a', 'b', 'c') should be a pair of texts, which the model takes"),
        ([()], "texts[0]=() should be a text, which the model takes"),
        (["a", ()], "texts[1]=() should be a text, which the model takes"),
    ],
)
def test_a_model_that_says_not_how_many_texts_it_takes_is_given_one_or_two(monkeypatch, texts, said):
    model = SimpleNamespace(kind=CLASSES, facts=Facts(0, 48))
    monkeypatch.setattr("unmask.inference.find_model", lambda *_, **__: model)
    with pytest.raises(unmask.UserError, match=re.escape(said)):
        unmask.predict("model", texts)


def test_mistakes_leave_no_files(tmp_path):
    train = [{"text": "a b", "label": label} for label in ("x", "y")]
    for call in (unmask.finetune, unmask.search, unmask.pretrain):
        with pytest.raises(unmask.UserError, match="is not a field"):
            call({}, tmp_path / "run", train=train, overrides={"epochz": 3})
    assert not (tmp_path / "run").exists()


def test_an_evaluation_of_no_rows_at_a_time_is_refused():
    with pytest.raises(unmask.UserError, match=r"config\.eval\.batch=0 should be 1 or more"):
        unmask.evaluate("nowhere", {"eval": {"batch": 0}})


def test_pairs_for_embeddings_are_rows_that_can_be_passed_on(tmp_path):
    (tmp_path / "train.csv").write_text("a,b,wrong\none,two,three\nfour,five,six\n")
    (tmp_path / "validation.csv").write_text("a,b,score\none,two,0.5\n")
    (tmp_path / "test.csv").write_text("a,b,score\none,two,1\nfour,five,\n")
    files = {name: str(tmp_path / f"{name}.csv") for name in ("train", "validation", "test")}
    data = {"source": "files", "text": "a", "text_pair": "b", "negative": "wrong", **files}
    assert unmask.load_examples({"kind": "embedding", "data": data}) == {
        "train": [{"a": "one", "b": "two", "wrong": "three"}, {"a": "four", "b": "five", "wrong": "six"}],
        "validation": [{"a": "one", "b": "two", "score": 0.5}],
        "test": [{"a": "one", "b": "two", "score": 1.0}, {"a": "four", "b": "five", "score": None}],
    }
