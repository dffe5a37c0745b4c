"""A search: what it draws, how it goes on after a stop, what it ends early, a best config that makes its run again."""

import dataclasses
import io
import logging
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from etils import epath
from rich.console import Console

from base.command_line import parse
from base.errors import UserError
from finetune import run_steps
from finetune.config import FinetuneConfig
from finetune.search import trials as searching
from finetune.search.own_functions import OwnFunctions
from finetune.search.search_space import check_ranges, with_values
from finetune.search.trials import run_search, search
from finetune.search.trials_table import Found, Trial, best_recipe, markdown, table
from finetune.train import Evaluation, train
from tests.finetune.tiny_task import tiny_finetune

RANGES = {"trials": 2, "learning_rate": [1e-4, 1e-2], "global_batch": [8, 16], "weight_decay": [0.0, 0.1]}


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    tiny_finetune(folder)
    return folder


def config_of(task: Path, **ranges) -> FinetuneConfig:
    return tiny_finetune(task, epochs=1, lengths=[48], search={**RANGES, **ranges})


def drawn(found: Found) -> list[tuple]:
    return [(trial.number, dict(trial.values), trial.score) for trial in found.trials]


def read_recipe(path: Path) -> FinetuneConfig:
    config, _ = parse(FinetuneConfig, ["finetune", f"--config={path}"], lambda values: None)
    return config


def scoring(monkeypatch, *trials: list[float], requested: str = "") -> list[FinetuneConfig]:
    """Have each trial score so much after each epoch, without training; returns the configs of those that are made."""
    made: list[FinetuneConfig] = []

    def scored(config, folder, watch, **_):
        made.append(config)
        (folder / "checkpoints").mkdir(parents=True)
        for epoch, value in enumerate(trials[len(made) - 1], 1):
            if value < 0:
                raise KeyboardInterrupt
            if watch(Evaluation(0, float(epoch), ({"accuracy": value},))):
                break
        history = [{"epoch": float(epoch)}]
        return SimpleNamespace(
            interrupted="",
            requested=requested,
            seconds=1.0,
            tracking=SimpleNamespace(history=history, told_to_end=False),
            value=value,
        )

    monkeypatch.setattr(searching, "train", scored)
    monkeypatch.setattr(
        searching, "results", lambda outcome: {"summary": {"": {"accuracy": {"mean": outcome.value}}}}
    )
    return made


def test_a_killed_trial_goes_on_and_the_best_config_makes_its_run_again(task, tmp_path, monkeypatch, caplog):
    ranges = {"learning_rate": [1e-4, 1e-2], "global_batch": [], "weight_decay": [0.0, 0.1]}
    config = dataclasses.replace(
        config_of(task, trials=2, objective="loss", warmup_ratio=[0.0, 0.5], **ranges), epochs=2, seeds=2
    )
    made, compiled = [], run_steps.compiled
    monkeypatch.setattr(run_steps, "compiled", lambda *given: made.append(given[3]) or compiled(*given))

    def killed_in_second_epoch(chosen, folder, watch, **more):
        def evaluated(evaluation):
            if evaluation.epoch == 2:
                raise KeyboardInterrupt
            return watch(evaluation)

        return train(chosen, folder, evaluated, **more)

    with monkeypatch.context() as patched:
        patched.setattr(searching, "train", killed_in_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            search(config, epath.Path(tmp_path))
    made.clear()
    with caplog.at_level(logging.INFO):
        found = search(config, epath.Path(tmp_path))
    assert "resumed at step 7" in caplog.text
    assert [trial.epochs for trial in found.trials] == [2.0, 2.0]
    assert made == ["the train step for rows of 48 tokens"], "every trial has compiled its step"
    trial = found.best
    folder = tmp_path / "search"
    assert {path.name for path in folder.iterdir()} == {
        "best.py",
        "study.log",
        "trial-1",
        "trial-2",
        "trials.json",
        "trials.md",
    }
    assert not (folder / "trial-1" / "checkpoints").exists()

    recipe = read_recipe(folder / "best.py")
    assert recipe == with_values(config, trial.values)
    tracking = train(recipe, epath.Path(tmp_path / "again")).tracking
    losses = [tracking.history[index]["members"][i]["loss"] for i, index in enumerate(tracking.best)]
    assert sum(losses) / 2 == trial.score


def test_a_stopped_search_draws_what_it_would_have_drawn(task, tmp_path, monkeypatch):
    config = config_of(task, trials=14)
    scores = [[0.5 + 0.01 * (7 * i % 11)] for i in range(14)]
    scoring(monkeypatch, *scores)
    through = search(config, epath.Path(tmp_path / "through"))
    assert len({trial.values["learning_rate"] for trial in through.trials}) == 14
    scoring(monkeypatch, *scores[:11], [-1.0])
    with pytest.raises(KeyboardInterrupt):
        search(config, epath.Path(tmp_path / "stopped"))
    scoring(monkeypatch, *scores[11:])
    (tmp_path / "stopped" / "search" / "trial-12" / "checkpoints").rmdir()
    assert drawn(search(config, epath.Path(tmp_path / "stopped"))) == drawn(through)


def test_a_line_that_a_crash_cut_off_is_dropped(task, tmp_path, monkeypatch):
    scoring(monkeypatch, [0.5], [0.6], [0.7])
    search(config_of(task, trials=2), epath.Path(tmp_path))
    log = tmp_path / "search" / "study.log"
    log.write_bytes(log.read_bytes() + b'{"op_code":4,"wor')
    assert len(search(config_of(task, trials=3), epath.Path(tmp_path)).trials) == 3


def test_a_hopeless_trial_is_ended_and_one_at_its_end_is_not(task, tmp_path, monkeypatch):
    better = [[0.5, 0.6 + i / 100, 0.7] for i in range(5)]
    scoring(monkeypatch, *better, [0.5, 0.55, 0.9], [0.5, 0.65, 0.66])
    config = dataclasses.replace(config_of(task, trials=7), epochs=3)
    found = search(config, epath.Path(tmp_path))
    assert [trial.score for trial in found.trials] == [0.7] * 5 + [None, 0.66]
    assert [trial.epochs for trial in found.trials] == [3.0] * 5 + [2.0, 3.0]


def test_a_diverged_trial_has_no_score_and_the_others_go_on(task, tmp_path, monkeypatch):
    scoring(monkeypatch, [math.nan], [0.25])
    found = search(config_of(task), epath.Path(tmp_path))
    assert [trial.score for trial in found.trials] == [None, 0.25]
    assert found.best == found.trials[1]


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([math.nan, math.nan], "2 diverged (lower config.search.learning_rate)"),
        (
            [0.3, 0.4],
            "2 had no accuracy, which is NaN though the loss is a number (set config.search.objective to another "
            "metric)",
        ),
        ([0.3, math.nan], "1 diverged (lower config.search.learning_rate); 1 had no accuracy, which is NaN"),
    ],
)
def test_a_search_without_a_score_says_why(losses, said, task, tmp_path, monkeypatch):
    """A metric that is NaN for another reason was called divergence."""
    scoring(monkeypatch, [math.nan], [math.nan])
    given = iter(losses)

    def results(outcome):
        return {"summary": {"": {"accuracy": {"mean": outcome.value}, "loss": {"mean": next(given)}}}}

    monkeypatch.setattr(searching, "results", results)
    with pytest.raises(UserError, match=re.escape(f"none of 2 trials has a score: {said}")):
        run_search(config_of(task), epath.Path(tmp_path), Console(file=io.StringIO()))


def test_a_signal_ends_the_search_with_what_is_done(task, tmp_path, monkeypatch):
    monkeypatch.setattr(searching, "train", lambda *_, **__: SimpleNamespace(interrupted="SIGTERM"))
    output = io.StringIO()
    assert run_search(config_of(task), epath.Path(tmp_path), Console(file=output)) == "SIGTERM"
    assert output.getvalue() == ""


def test_a_signal_in_the_last_step_of_a_trial_begins_no_other(task, tmp_path, monkeypatch):
    made = scoring(monkeypatch, [0.5], [0.6], [0.7], requested="SIGTERM")
    config = config_of(task, trials=2)
    assert search(config, epath.Path(tmp_path)).interrupted == "SIGTERM"
    assert len(made) == 1
    assert search(config, epath.Path(tmp_path)).interrupted == "", "the search is complete"
    assert len(made) == 2


def test_what_is_drawn_lies_in_its_ranges(task, tmp_path, monkeypatch):
    made = scoring(monkeypatch, *[[0.5]] * 12)
    config = config_of(task, trials=12, epochs=[2, 4], warmup_ratio=[0.1, 0.2])
    search(config, epath.Path(tmp_path))
    assert all(1e-4 <= each.optimizer.learning_rate <= 1e-2 for each in made)
    assert (
        min(each.optimizer.learning_rate for each in made) < 1e-3
    )  # as likely below as above, on a log scale
    assert {each.global_batch for each in made} == {8, 16}
    assert {each.epochs for each in made} == {2, 3, 4}
    assert all(0.1 <= each.schedule.warmup_ratio <= 0.2 for each in made)
    assert all(0.0 <= each.optimizer.weight_decay <= 0.1 for each in made)
    assert {each.search.trials for each in made} == {0}


def test_another_search_in_the_same_workdir_is_refused(task, tmp_path, monkeypatch):
    scoring(monkeypatch, [0.5], [0.6], [0.7])
    search(config_of(task), epath.Path(tmp_path))
    with pytest.raises(
        UserError, match=r"config\.search\.learning_rate was \[0\.0001, 0\.01\], is \[0\.001,"
    ):
        search(config_of(task, learning_rate=[1e-3, 1e-2]), epath.Path(tmp_path))
    with pytest.raises(UserError, match=r"config\.epochs was 1, is 2"):
        search(dataclasses.replace(config_of(task), epochs=2), epath.Path(tmp_path))


def test_a_search_goes_on_with_its_objective_and_direction_only(task, tmp_path, monkeypatch):
    config = tiny_finetune(task, epochs=1, search={"trials": 2})
    scoring(monkeypatch, [0.5], [0.6], [0.7])

    def space(trial):
        return {"optimizer.learning_rate": trial.suggest_float("rate", 1e-4, 1e-2)}

    own = OwnFunctions(space, lambda metrics: metrics["accuracy"], "maximize")
    search(config, epath.Path(tmp_path), own)
    for other, said in (
        (dataclasses.replace(own, direction="minimize"), "direction: it was maximize, and is minimize"),
        (dataclasses.replace(own, compute_objective=None), "objective: it was objective, and is accuracy"),
    ):
        with pytest.raises(UserError, match=f"this search was made with another {said}"):
            search(config, epath.Path(tmp_path), other)
    more = dataclasses.replace(config, search=dataclasses.replace(config.search, trials=3))
    assert len(search(more, epath.Path(tmp_path), own).trials) == 3


def test_a_trial_that_fails_does_not_come_back(task, tmp_path, monkeypatch):
    config = tiny_finetune(task, epochs=1, search={"trials": 1})
    scoring(monkeypatch, [0.5])
    made = searching.train

    def refused(chosen, folder, watch, **more):
        (folder / "checkpoints").mkdir(parents=True)
        raise UserError(f"config.global_batch={chosen.global_batch} is refused")

    def batches(size, name="batch"):
        return OwnFunctions(lambda trial: {"global_batch": trial.suggest_categorical(name, [size])})

    monkeypatch.setattr(searching, "train", refused)
    with pytest.raises(UserError, match=r"config\.global_batch=13 is refused"):
        search(config, epath.Path(tmp_path), batches(13))
    assert (tmp_path / "search/trial-1/checkpoints").exists()
    monkeypatch.setattr(searching, "train", lambda config, folder, *more, **names: (
        folder.mkdir(), made(config, folder, *more, **names))[1])  # fmt: skip
    with pytest.raises(UserError, match="optuna keeps the choices of a name for a whole search; give"):
        search(config, epath.Path(tmp_path), batches(8))
    (trial,) = search(config, epath.Path(tmp_path), batches(8, "size")).trials
    assert (trial.values, trial.score) == ({"global_batch": 8}, 0.5)


def test_a_trial_that_was_killed_after_it_was_ended_has_no_score(task, tmp_path, monkeypatch):
    scoring(monkeypatch, [0.5])
    made = searching.train

    def ended_before(*given, **names):
        outcome = made(*given, **names)
        outcome.tracking.told_to_end = True
        return outcome

    monkeypatch.setattr(searching, "train", ended_before)
    assert [trial.score for trial in search(config_of(task, trials=1), epath.Path(tmp_path)).trials] == [None]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"learning_rates": [1e-4, 1e-3]},
            "hp_space gave 'learning_rates', but a trial has one learning rate",
        ),
        ({"config.benchmark.tasks": ["rte"]}, "hp_space gave 'config.benchmark.tasks'"),
        ({"search.trials": 3}, "hp_space gave 'search.trials'"),
        ({3: 4}, "hp_space gave the field 3; the name of a field should be a text"),
    ],
)
def test_fields_that_a_trial_cannot_set_are_refused(values, said):
    with pytest.raises(UserError, match=re.escape(said)):
        OwnFunctions(lambda trial: values).draw(None)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"trials": -1}, "config.search.trials=-1 should be 0 (no search) or more"),
        ({"learning_rate": [1e-4]}, "config.search.learning_rate=[0.0001] should be two values, a low and a higher"),
        ({"learning_rate": [1e-2, 1e-4]}, "config.search.learning_rate=[0.01, 0.0001] should be two values"),
        ({"epochs": [2, 2]}, "config.search.epochs=[2, 2] should be two values, a low and a higher one"),
        ({"learning_rate": [0.0, 1.0]}, "config.search.learning_rate=[0.0, 1.0]: learning rate 0.0 should be above 0"),
        ({"warmup_ratio": [0.5, 1.5]}, "config.search.warmup_ratio=[0.5, 1.5]: config.schedule.warmup_ratio=1.5"),
        ({"weight_decay": [-1.0, 0.1]}, "config.search.weight_decay=[-1.0, 0.1] should be 0 or more"),
        ({"global_batch": [8, 8]}, "config.search.global_batch=[8, 8] lists a value twice"),
        ({"global_batch": [0]}, "config.search.global_batch=[0]: config.global_batch=0 should be 1 or more"),
        ({"learning_rate": [], "global_batch": [], "weight_decay": []}, "the search has no range"),
        ({"objective": "bleu"}, "config.search.objective='bleu' is not a metric of "),
    ],
)  # fmt: skip
def test_a_search_that_cannot_be_made_is_refused_before_training(
    ranges, message, task, tmp_path, monkeypatch
):
    made = scoring(monkeypatch)
    with pytest.raises(UserError) as error:
        search(config_of(task, **ranges), epath.Path(tmp_path))
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert made == []


def test_a_batch_that_the_devices_do_not_divide_is_refused_before_training(task, tmp_path, monkeypatch):
    made = scoring(monkeypatch)
    config = config_of(task, global_batch=[16, 13])
    with pytest.raises(UserError, match=r"config\.global_batch=13 "):
        search(config, epath.Path(tmp_path))
    assert made == []


def test_learning_rates_and_a_search_exclude_each_other(task):
    with pytest.raises(UserError, match=r"config\.learning_rates=\[0\.001\] and a search exclude each other"):
        check_ranges(dataclasses.replace(config_of(task), learning_rates=(1e-3,)))


def test_without_optuna_one_line_says_how_to_install_it(task, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        UserError, match=r"a search needs optuna: pip install -c constraints\.txt -e \.\[search\]"
    ):
        search(config_of(task), epath.Path(tmp_path))


def test_a_recipe_holds_every_field_that_differs_from_its_default(task, tmp_path):
    config = dataclasses.replace(
        config_of(task), lengths=(48, 64), task='odd "name"', model=tiny_finetune(task, model={"dropout": 0.0}).model
    )  # fmt: skip
    values = {"learning_rate": 0.1 + 0.2, "global_batch": 4, "weight_decay": 1 / 3}
    (tmp_path / "best.py").write_text(best_recipe(config, values, 'First """line\nsecond'))
    assert read_recipe(tmp_path / "best.py") == with_values(config, values)


def test_trials_are_shown_with_the_best_marked():
    trials = (
        Trial(1, {"learning_rate": 2e-5, "global_batch": 16}, 0.5, 2.0, 61.0),
        Trial(2, {"learning_rate": 5e-5, "global_batch": 8}, None, 1.0, 30.0),
    )
    found = Found("accuracy", trials, trials[0], "")
    assert markdown(found).splitlines()[:6] == [
        "# 2 trials: accuracy",
        "",
        "| trial | learning rate | global batch | score | epochs made | time |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
        "| 1 | 2e-05 | 16 | 50.00 * | 2 | 1m01s |",
        "| 2 | 5e-05 | 8 | - | 1 | 30s |",
    ]


def test_trials_of_every_range_fit_a_terminal_of_80_columns():
    values = {"learning_rate": 1.23456e-5, "global_batch": 128, "epochs": 10, "warmup_ratio": 0.0123456,
              "weight_decay": 0.0123456}  # fmt: skip
    trial = Trial(100, values, 0.98765, 10.0, 85_000.0)
    output = io.StringIO()
    Console(file=output, width=80).print(table(Found("accuracy", (trial,), trial, "")))
    assert "…" not in output.getvalue()
    assert "100 1.23e-05 128 10 0.0123 0.0123 98.77 * 10 23h36m" in " ".join(output.getvalue().split())
