"""A run that learns causal language modelling first and masked language modelling after; evaluation at its own rate."""

import dataclasses
import json
import math
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from etils import epath

from base import schema
from base.errors import UserError
from base.schema import build
from pretrain import export as export_command
from pretrain import fill_mask
from pretrain.config import PretrainConfig
from pretrain.devices.mesh import make_mesh
from pretrain.phases import objective_at, objective_since, resolve_phases
from pretrain.resume import best_evaluation, check_learned, objective_sums
from pretrain.runtime.checkpointer import Checkpointer
from pretrain.runtime.saved_params import restore_params
from pretrain.train import train
from tests.faults.test_resume import stop_at
from tests.tiny import tiny_config, write_corpus

CLM_THEN_MLM = [
    {"steps": 4, "objective": "clm"},
    {"steps": 2, "objective": "clm", "seq_len": 16},
    {"steps": 6, "masking_rate": 0.3},
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text.txt")


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr("pretrain.job.make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def values(workdir, name):
    return {line["step"]: line[name] for line in lines(workdir) if name in line}


def recipe(corpus, **changes):
    given = {"steps": None, "phases": CLM_THEN_MLM, "log": {"every": 4}, "eval": {"every": 3}, **changes}
    return tiny_config(corpus, **given)


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """The recipe made without a stop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pretrain.job.make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))
        workdir = epath.Path(tmp_path_factory.mktemp("whole") / "run")
        return workdir, train(recipe(corpus, checkpoint={"every": 5, "keep": 9}), workdir)


def test_each_objective_is_logged_by_itself_and_the_loss_goes_on(finished):
    workdir, outcome = finished
    assert [(o.name, o.causal) for o in outcome.job.objectives] == [
        ("clm", True), ("clm", True), ("mlm", False)
    ]  # fmt: skip
    assert sorted(values(workdir, "train/loss")) == [4, 6, 8, 12]
    assert sorted(values(workdir, "train/predicted_share")) == [8, 12]
    assert sorted(values(workdir, "eval/loss")) == [3, 6, 9, 12]
    start = math.log(outcome.job.tokenizer.vocab_size)
    losses = values(workdir, "train/loss")
    assert start > losses[4] > losses[6]
    assert start > losses[8] > losses[12], "the second objective does not go on with the weights of the first"
    assert values(workdir, "eval/perplexity")[6] == pytest.approx(math.exp(values(workdir, "eval/loss")[6]))


def test_a_best_evaluation_is_one_of_its_phase(finished):
    workdir, _ = finished
    last = values(workdir, "eval/loss")
    best = restore_params(workdir, "best")[1]["step"]
    assert best == min((9, 12), key=last.__getitem__)


def test_a_run_that_stops_in_each_objective_and_between_them_loses_the_same(
    finished, corpus, tmp_path, monkeypatch
):
    workdir = epath.Path(tmp_path / "parts")
    config = recipe(corpus, checkpoint={"every": 5, "keep": 9})
    for stop in (3, 6, 7):
        with monkeypatch.context() as patch:
            stop_at(patch, stop)
            assert train(config, workdir).step == stop
    train(config, workdir)
    for name in ("train/loss", "train/accuracy", "train/predicted_share", "eval/loss"):
        assert values(workdir, name) == values(finished[0], name)


def test_the_model_of_a_run_that_ends_in_masks_is_exported_as_ever(finished, tmp_path, caplog):
    out = tmp_path / "out"
    assert export_command.main(["export", f"--workdir={finished[0]}", f"--out={out}"]) == 0
    assert "next token" not in caplog.text
    card = (out / "README.md").read_text()
    assert "pipeline_tag: fill-mask" in card and "causal language modelling, then masked language" in card
    assert json.loads((out / "config.json").read_text())["architectures"] == ["RobertaForMaskedLM"]


def test_a_model_that_predicts_the_next_token_is_said_to(finished, tmp_path, caplog, capsys):
    out = tmp_path / "out"
    command = ["export", f"--workdir={finished[0]}", f"--out={out}", "--step=5"]
    assert export_command.main(command) == 0
    assert [line for line in caplog.messages if "next token" in line] == [
        f"{out}: its head was trained to predict the next token (config.objective.name=clm) and does not fill blanks: "
        "load it with AutoModelForCausalLM and is_decoder=True, or go on with mlm"
    ]
    use = f"AutoModelForCausalLM.from_pretrained({str(out)!r}, is_decoder=True)"
    assert capsys.readouterr().out.rstrip().endswith(use)
    card = (out / "README.md").read_text()
    assert "AutoModelForCausalLM.from_pretrained" in card and "fill-mask" not in card
    training = card.partition("## Training")[2].partition("## Results")[0]
    assert "causal language modelling" in training and "masked" not in training, (
        "of a phase that has yet to begin"
    )
    with pytest.raises(UserError, match=r"step 5 of this run has learned to predict the next token"):
        fill_mask.main(["fill_mask", f"--workdir={finished[0]}", "--step=5", "the <mask> cat"])
    assert fill_mask.main(["fill_mask", f"--workdir={finished[0]}", "the <mask> cat"]) == 0


@pytest.mark.parametrize(
    ("before", "weight", "expected"),
    [({}, 1e-3, math.nan), ({"z_loss_sum": 3.0}, 1e-3, 3.0), ({"z_loss_sum": 3.0}, 0.0, None)],
)
def test_a_z_loss_that_begins_between_two_logs_is_not_logged_as_that_of_all_steps(before, weight, expected):
    """Its sum over the steps since the last log is not known."""
    run = {"sums": {"loss_sum": 8.0, "weight_sum": 4.0, "maskable_sum": 20.0, **before}}
    found = objective_sums(run, build(PretrainConfig, {"objective": {"z_loss": weight}}))
    np.testing.assert_equal(found.pop("z_loss_sum", None), expected)
    assert found == {"loss_sum": 8.0, "weight_sum": 4.0, "maskable_sum": 20.0}
    assert objective_sums({"sums": {}}, build(PretrainConfig, {"objective": {"z_loss": weight}})) == {}


def test_evaluations_of_runs_that_mask_at_different_rates_predict_the_same_tokens(corpus, tmp_path):
    jobs = {}
    for rate in (0.15, 0.4):
        config = tiny_config(
            corpus,
            steps=1,
            masking={"rate": rate},
            eval={"every": 1},
            optimizer={"learning_rate": 1e-30},
            schedule={"warmup_steps": 0},
        )
        jobs[rate] = train(config, epath.Path(tmp_path / str(rate))).job
    assert [job.objectives[0].rate for job in jobs.values()] == [0.15, 0.4]
    assert [job.evaluations[0].rate for job in jobs.values()] == [0.15, 0.15]
    losses = [values(tmp_path / str(rate), "eval/loss")[1] for rate in jobs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_an_evaluation_keeps_its_rate_over_phases(corpus):
    job = recipe_job(corpus, eval={"every": 3, "masking_rate": 0.2})
    assert [objective.rate for objective in job] == [0.2, 0.2]
    own = recipe_job(corpus, eval={"every": 3, "masking_rate": 0.0})
    assert [objective.rate for objective in own] == [0.3, 0.5]


def recipe_job(corpus, **changes):
    from pretrain.objective.masking import MaskingTables
    from pretrain.objective.registry import evaluation_objective

    config = tiny_config(
        corpus, steps=None, phases=[{"steps": 1, "masking_rate": 0.3}, {"steps": 1, "masking_rate": 0.5}], **changes
    )  # fmt: skip
    tables = MaskingTables(0.8, 0.1, 4, (0, 1, 2, 3, 4), 300)
    return [evaluation_objective(phase, config.eval, tables, 2) for phase in resolve_phases(config)]


def test_a_run_that_began_before_evaluation_had_a_rate_evaluates_at_that_of_its_phase(
    corpus, tmp_path, monkeypatch
):
    config = tiny_config(corpus, steps=4, masking={"rate": 0.4}, eval={"every": 2, "masking_rate": 0.0})
    whole = epath.Path(tmp_path / "whole")
    train(config, whole)
    older = epath.Path(tmp_path / "older")
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        forget_new_fields(patch)
        train(config, older)
    now = dataclasses.replace(config, eval=dataclasses.replace(config.eval, masking_rate=0.15))
    outcome = train(now, older)
    assert outcome.job.evaluations[0].rate == 0.4
    assert values(older, "eval/loss") == values(whole, "eval/loss")


def test_a_best_evaluation_ends_where_the_rows_or_the_rate_of_evaluation_change(corpus):
    config, best = tiny_config(corpus), {"step": 3, "eval/loss": 2.0}
    run = {"config": schema.as_dict(config), "best": best, "step": 4}

    def kept(config):
        return best_evaluation(run, SimpleNamespace(config=config, phases=resolve_phases(config)))

    assert kept(config) == kept(tiny_config(corpus, optimizer={"learning_rate": 1e-3}, steps=20)) == best
    of_other_rows = [
        {"eval": {"masking_rate": 0.4}}, {"eval": {"steps": 3}}, {"global_batch": 16}, {"seq_len": 16},
        {"data": {"eval_fraction": 0.2}}, {"data": {"packing": "documents"}},
    ]  # fmt: skip
    for changes in of_other_rows:
        assert kept(tiny_config(corpus, **changes)) is None, changes
    same_now = [{"steps": 4}, {"steps": 4, "seq_len": 16}]  # the phase of step 4 is as it was
    assert kept(tiny_config(corpus, steps=None, phases=same_now)) == best
    del run["config"]["eval"]["masking_rate"]
    assert kept(tiny_config(corpus, eval={"masking_rate": 0.0})) == best


def forget_new_fields(monkeypatch):
    """Save checkpoints as they were before a run had an objective, and a rate of evaluation masks."""
    save = Checkpointer.save

    def save_older(self, step, state, run, **first):
        del run["config"]["objective"], run["config"]["eval"]["masking_rate"]
        save(self, step, state, run, **first)

    monkeypatch.setattr(Checkpointer, "save", save_older)


@pytest.mark.parametrize(
    ("step", "objective", "since"),
    [(1, "clm", 0), (6, "clm", 0), (7, "mlm", 6), (12, "mlm", 6), (15, "mlm", 6)],
)
def test_the_objective_of_a_step_is_that_of_its_phase(corpus, step, objective, since):
    phases = resolve_phases(recipe(corpus))
    assert (objective_at(phases, step), objective_since(phases, step)) == (objective, since)


def test_an_objective_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match=r"config\.objective\.name='rtd' is not one of 'mlm', 'clm'"):
        schema.build(PretrainConfig, {"objective": {"name": "rtd"}})
    with pytest.raises(UserError, match=r"config\.phases\[0\]\.objective='rtd' is not one of None, 'mlm'"):
        schema.build(PretrainConfig, {"phases": [{"steps": 1, "objective": "rtd"}]})


def test_what_steps_have_learned_cannot_be_said_otherwise_afterwards(corpus):
    config = recipe(corpus)
    saved = {"config": schema.as_dict(config), "step": 8}
    first, second, third = config.phases
    begun = (dataclasses.replace(first, objective="mlm"), second, third)
    last = (first, second, dataclasses.replace(third, objective="clm"))
    shorter = (dataclasses.replace(first, steps=1), second, third)
    for phases, step, place in ((begun, 4, 0), (last, 8, 2), (shorter, 4, 2)):
        now = resolve_phases(dataclasses.replace(config, phases=phases))
        where = rf"config\.(phases\[{place}\]\.objective|objective.name)"
        why = rf"step {step} of this run has learned .* says .* \({where}\)"
        with pytest.raises(UserError, match=why):
            check_learned(saved, now)
    check_learned({**saved, "step": 6}, resolve_phases(dataclasses.replace(config, phases=last)))
    check_learned(saved, resolve_phases(config))


def test_a_run_is_not_gone_on_with_as_if_it_had_learned_something_else(finished, corpus, tmp_path):
    workdir = epath.Path(tmp_path / "run")
    shutil.copytree(finished[0], workdir)
    config = recipe(corpus, checkpoint={"every": 5, "keep": 9})
    phases = (dataclasses.replace(config.phases[0], objective="mlm"), *config.phases[1:])
    with pytest.raises(
        UserError,
        match=r"step 4 of this run has learned clm, and config.phases now says mlm \(config\.phases\[0\]",
    ):
        train(dataclasses.replace(config, phases=phases), workdir, accept_changes=True)
