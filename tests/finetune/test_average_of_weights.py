"""The moving average of each run's weights in fine-tuning: a candidate beside the weights, chosen by evaluation."""

import jax
import numpy as np
from etils import epath

from finetune.population.early_stopping import better_of
from finetune.train import train
from pretrain.reports.metric_writer import read_metrics
from tests.finetune.tiny_task import tiny_finetune


def member(tree, index):
    return [np.asarray(leaf)[index] for leaf in jax.tree.leaves(jax.device_get(tree))]


def test_the_better_of_weights_and_average_is_each_members_candidate(tmp_path):
    # At the larger rate the last steps have ruined the weights, and the average remembers the first ones.
    config = tiny_finetune(
        tmp_path / "task",
        steps=4,
        learning_rates=(1e-4, 0.3),
        optimizer={"clip_norm": 0.0},
        schedule={"name": "constant", "warmup_steps": 0, "warmup_ratio": 0.0},
        average={"decay": 0.99},
        eval={"metric": "loss", "every": 4},
    )
    outcome = train(config, epath.Path(tmp_path / "run"))
    state, (evaluation,) = outcome.state, outcome.tracking.history
    assert np.asarray(state.opt_state.updates).tolist() == [4, 4]
    chosen = [values["average_chosen"] for values in evaluation["members"]]
    for index, of_average in enumerate(chosen):
        kept = state.opt_state.average if of_average else state.params
        jax.tree.map(np.testing.assert_array_equal, member(state.best, index), member(kept, index))
    assert chosen[1] == 1.0
    logged = [
        line for line in read_metrics(tmp_path / "run/runs/seed0_lr0.3/metrics.jsonl") if "eval/loss" in line
    ]
    (line,) = logged
    assert line["eval/average_loss"] == evaluation["members"][1]["loss"] < line["eval/loss"]


def test_the_average_of_a_member_is_that_of_its_own_weights(tmp_path):
    config = tiny_finetune(
        tmp_path / "task",
        steps=1,
        seeds=2,
        schedule={"name": "constant", "warmup_steps": 0, "warmup_ratio": 0.0},
        average={"decay": 0.99},
    )
    outcome = train(config, epath.Path(tmp_path / "run"))
    for index in range(2):
        average, after = member(outcome.state.opt_state.average, index), member(outcome.state.params, index)
        before = jax.tree.leaves(outcome.job.params)
        encoder = [
            position
            for position, (path, _) in enumerate(jax.tree_util.tree_leaves_with_path(outcome.job.params))
            if "head" not in jax.tree_util.keystr(path)  # each member draws its own
        ]
        for position in encoder:
            expected = 0.1 * before[position] + 0.9 * after[position]  # a decay of 1 / 10 after no updates
            np.testing.assert_allclose(average[position], expected, rtol=1e-5, atol=1e-7)
    moved = [
        np.abs(a - b).max() for a, b in zip(member(outcome.state.params, 0), member(outcome.state.params, 1))
    ]
    assert max(moved) > 0


def test_better_of_takes_the_average_where_it_is_better_and_a_score_that_is_not_a_number_never():
    nan = float("nan")
    raw = [{"accuracy": 0.5, "loss": 1.0}, {"accuracy": 0.5, "loss": 1.0}, {"accuracy": nan, "loss": nan}]
    average = [{"accuracy": 0.6, "loss": 2.0}, {"accuracy": nan, "loss": nan}, {"accuracy": 0.1, "loss": 3.0}]
    values, chosen = better_of("accuracy", raw, average)
    assert chosen == [True, False, True]
    assert [each["accuracy"] for each in values] == [0.6, 0.5, 0.1]
    assert [each["average_chosen"] for each in values] == [1.0, 0.0, 1.0]
    assert better_of("loss", raw, average)[1] == [False, False, True]
