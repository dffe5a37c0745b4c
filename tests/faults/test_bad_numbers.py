"""Losses, gradients and weights that are not finite: the run ends or leaves out the step, and saves none of them."""

import json
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from etils import epath

from base.errors import UserError
from finetune.results.final_outputs import finish
from finetune.train import train as finetune
from pretrain import export as export_command
from pretrain import train as train_module
from pretrain.objective.masked import MaskedLM
from pretrain.optim.finite import first_bad, kept
from pretrain.runtime.bad_numbers import Guard
from pretrain.runtime.checkpointer import Checkpointer
from pretrain.runtime.saved_params import restore_params
from pretrain.train import train
from tests import traced_once
from tests.faults.test_resume import stop_at
from tests.finetune.tiny_task import tiny_finetune
from tests.tiny import on_one_device, tiny_config, write_corpus

POISON = -1
"""The token of a batch whose loss is made NaN."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text.txt")


@pytest.fixture(autouse=True)
def one_device():
    with on_one_device("pretrain.job", "finetune.population.state"):
        yield


@pytest.fixture(scope="module")
def poisonable():
    """Have a batch with the token POISON give a loss that is NaN, in all tests from here on: they share their steps."""
    prepare = MaskedLM.prepare

    def preparing(self, key, row_ids, batch, step=None):
        prepared = prepare(self, key, row_ids, batch, step)
        return prepared._replace(
            weights=jnp.where(jnp.any(batch["tokens"] == POISON), jnp.nan, prepared.weights)
        )

    with traced_once.Apart(), mock.patch.object(MaskedLM, "prepare", preparing):
        yield


@pytest.fixture
def poisoned(monkeypatch, poisonable):
    """Have the batches of these steps (from 1) give a loss that is NaN."""
    steps: set[int] = set()
    fed: list[int] = []
    feed = train_module.to_devices

    def feeding(arrays, *arguments):
        fed.append(len(fed) + 1 if not fed else fed[-1] + 1)
        if fed[-1] in steps:
            arrays = arrays | {
                "tokens": np.where(np.arange(arrays["tokens"].shape[1]) == 3, POISON, arrays["tokens"])
            }
        return feed(arrays, *arguments)

    monkeypatch.setattr(train_module, "to_devices", feeding)

    def poison(*bad: int, after: int = 0):
        fed[:] = [after] * (after > 0)
        steps.clear()
        steps.update(bad)

    return poison


def values(workdir, name: str) -> dict[int, float]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def leaves(tree) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(tree))]


def steps_in(workdir) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_a_loss_that_is_not_finite_ends_the_run_before_anything_of_it_is_saved(corpus, tmp_path, poisoned):
    workdir = epath.Path(tmp_path / "run")
    config = tiny_config(corpus, checkpoint={"every": 2, "keep": 9})
    poisoned(6)
    with pytest.raises(
        UserError, match=r"^step 6: the loss or the gradient is not finite; the run ends, and its newest"
    ):
        train(config, workdir)
    assert steps_in(workdir) == [2, 4] and not (workdir / "finished.json").exists()
    assert not first_bad(restore_params(workdir)[0])
    poisoned(after=4)
    assert train(config, workdir).step == 8


def test_a_signal_at_a_bad_step_saves_nothing_of_it(corpus, tmp_path, poisoned, monkeypatch):
    workdir = epath.Path(tmp_path / "run")
    poisoned(5)
    stop_at(monkeypatch, 5)
    with pytest.raises(UserError, match=r"^step 5: "):
        train(tiny_config(corpus, checkpoint={"every": 2, "keep": 9}), workdir)
    assert steps_in(workdir) == [2, 4]


def test_a_bad_step_that_is_skipped_leaves_params_and_moments_as_they_were(
    corpus, tmp_path, poisoned, caplog
):
    workdir = epath.Path(tmp_path / "run")
    config = tiny_config(corpus, on_nonfinite="skip", checkpoint={"every": 1, "keep": 9}, log={"every": 4})
    poisoned(3, 4, 6)
    train(config, workdir)
    assert caplog.text.count("the step is skipped") == 3
    before, after, later = (restore_params(workdir, step)[0] for step in (2, 4, 5))
    for was, now in zip(leaves(before), leaves(after), strict=True):
        np.testing.assert_array_equal(was, now)
    assert any((was != now).any() for was, now in zip(leaves(after), leaves(later), strict=True))
    assert moments(workdir, 2) == moments(workdir, 4) != moments(workdir, 5)
    assert values(workdir, "train/skipped_steps") == {4: 2.0, 8: 1.0}
    assert all(np.isfinite(loss) for loss in values(workdir, "train/loss").values())
    assert (workdir / "finished.json").exists()


def test_a_step_that_is_left_out_counts_for_the_learning_rate_alone():
    optimizer = optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(lambda step: 1.0 * step))
    params = {"w": np.ones(2, np.float32)}
    before = optimizer.init(params)
    after = optimizer.update(params, before, params)[1]
    adam, schedule = kept(np.bool_(True), before, after)
    assert (int(adam.count), int(schedule.count)) == (0, 1)
    adam, schedule = kept(np.bool_(False), before, after)
    assert (int(adam.count), int(schedule.count)) == (1, 1)


def moments(workdir, step: int) -> list[bytes]:
    """The optimiser's arrays in a checkpoint, as bytes."""
    checkpointer = Checkpointer(workdir, keep=9)
    try:
        item = checkpointer._manager.item_metadata(step)["state"].tree["opt_state"]
        wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), item)
        how = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), item)
        read = checkpointer._read(
            step,
            state=ocp.args.PyTreeRestore(
                item={"opt_state": wanted}, restore_args={"opt_state": how}, partial_restore=True
            ),
        )
        arrays = jax.tree.leaves(read["state"]["opt_state"])
        return [np.asarray(array).tobytes() for array in arrays if np.ndim(array)]
    finally:
        checkpointer.close()


def test_so_many_bad_steps_in_a_row_end_a_run_that_skips_them(corpus, tmp_path, poisoned, monkeypatch):
    workdir = epath.Path(tmp_path / "run")
    config = tiny_config(corpus, on_nonfinite="skip", max_skipped=2, checkpoint={"every": 2, "keep": 9})
    poisoned(2, 3, 5, 6, 7)
    stop_at(monkeypatch, 6)  # bad steps before a stop count with those after it
    assert train(config, workdir).step == 6
    poisoned(7, after=6)
    with pytest.raises(
        UserError, match=r"^step 7: .* in 3 steps in a row \(config.max_skipped=2\); the run ends"
    ):
        train(config, workdir)
    assert steps_in(workdir) == [2, 4, 6] and not first_bad(restore_params(workdir)[0])


def test_weights_that_an_update_makes_infinite_are_not_saved(corpus, tmp_path):
    workdir = epath.Path(tmp_path / "run")
    config = tiny_config(
        corpus, optimizer={"learning_rate": 1e38, "name": "adafactor"}, checkpoint={"every": 1}
    )  # fmt: skip
    with pytest.raises(
        UserError, match=r"^step \d: (the weights are|the loss or the gradient is) not finite"
    ):
        train(config, workdir)
    assert not (workdir / "finished.json").exists()
    assert all(not first_bad(restore_params(workdir, step)[0]) for step in steps_in(workdir))


def test_weights_that_are_not_finite_are_not_exported(corpus, tmp_path, monkeypatch):
    """Of older code, which saved them."""
    workdir = epath.Path(tmp_path / "run")
    monkeypatch.setattr(Guard, "check_params", lambda *arguments: None)
    monkeypatch.setattr(Guard, "look", lambda *arguments: None)
    train(tiny_config(corpus, optimizer={"learning_rate": 1e30}, schedule={"warmup_steps": 0}), workdir)
    with pytest.raises(
        UserError, match=r"step 8 of the run in .* has weights that are not finite \(embeddings\."
    ):
        export_command.main(["export", f"--workdir={workdir}", f"--out={tmp_path / 'out'}"])
    with pytest.raises(UserError, match="has weights that are not finite"):
        finetune(tiny_finetune(tmp_path / "task", init_from=str(workdir)), epath.Path(tmp_path / "tuned"))


def test_a_run_of_a_population_that_diverges_is_named_and_the_others_go_on(tmp_path, caplog):
    how = {"epochs": 1, "matmul_precision": "highest"}
    workdir = epath.Path(tmp_path / "both")
    outcome = finetune(tiny_finetune(tmp_path / "task", learning_rates=[3e-3, 1e30], **how), workdir)
    results = finish(outcome, workdir)
    said = [line for line in caplog.messages if "has diverged" in line]
    assert len(said) == 1 and "in run seed0_lr1e+30; it has diverged, and the others go on" in said[0]
    scores = [each["metrics"][results["metric"]] for each in results["runs"]]
    assert np.isfinite(scores[0]) and not np.isfinite(scores[1]) and results["best_run"] == 0
    alone = finetune(tiny_finetune(tmp_path / "task", **how), epath.Path(tmp_path / "alone"))
    ours, its = (each.tracking.history[-1]["members"][0] for each in (outcome, alone))
    assert ours == pytest.approx(its, rel=1e-4)


@pytest.mark.parametrize("rates", [{"optimizer": {"learning_rate": 1e30}}, {"learning_rates": [1e30, 1e31]}])
def test_fine_tuning_ends_when_every_run_has_diverged(tmp_path, rates):
    with pytest.raises(
        UserError, match=r"^step \d+: (the loss or the gradient is|the weights are) not finite"
    ):
        finetune(tiny_finetune(tmp_path / "task", epochs=1, **rates), epath.Path(tmp_path / "run"))
    assert not (tmp_path / "run" / "finished.json").exists()


def test_fine_tuning_skips_so_many_steps_in_a_row(tmp_path, caplog):
    config = tiny_finetune(
        tmp_path / "task", epochs=1, optimizer={"learning_rate": 1e30}, on_nonfinite="skip", max_skipped=2
    )
    with pytest.raises(UserError, match=r"in 3 steps in a row \(config.max_skipped=2\)"):
        finetune(config, epath.Path(tmp_path / "run"))
    assert caplog.text.count("the step is skipped") == 2
