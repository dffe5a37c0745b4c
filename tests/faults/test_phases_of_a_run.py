"""A ModernBERT in three phases, of 16 and 64 tokens: exact on resume, each checkpoint has its phase's network."""

import json

import jax
import numpy as np
import pytest
from etils import epath

from base.errors import UserError
from finetune.classifier.pretrained import load_encoder_for_classification
from pretrain import train as train_module
from pretrain.branch import branch
from pretrain.devices.mesh import make_mesh
from pretrain.export import export
from pretrain.job import assemble
from pretrain.models import build
from pretrain.models.huggingface import load_pretrained
from pretrain.objective.evaluation import Evaluator
from pretrain.objective.held_out_cache import held_out_rows
from pretrain.runtime.saved_params import restore_params
from pretrain.train import train
from pretrain.trained_network import newest_network
from tests.faults.test_resume import batches as batches  # a fixture
from tests.faults.test_resume import leaves, losses, stop_at
from tests.tiny import on_one_device, tiny_config, write_corpus

MODEL = {"family": "modernbert", "num_hidden_layers": 2, "global_rope_theta": 10_000.0, "local_attention": 8}
STEPS = [3, 6, 8]
"""The last step of each phase."""
BASES = [(1e4, 1e4), (1.6e5, 1e4), (1.6e5, 500.0)]
"""The rotary bases of each phase."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phases")
    write_corpus(folder / "text.txt")
    write_corpus(folder / "other.txt", seed=1)
    return folder


def three_phases(place, **changes):
    """Stable, context extension, decay on other data."""
    other = {
        "source": "files", "path": str(place / "other.txt"), "streams": 4, "window": 8, "eval_fraction": 0.1
    }  # fmt: skip
    phases = [
        {"steps": 3, "seq_len": 16, "global_batch": 8, "packing": "documents"},
        {"steps": 3, "global_rope_theta": 160_000.0, "learning_rate": 5e-3},
        {
            "steps": 2,
            "global_rope_theta": 160_000.0,
            "local_rope_theta": 500.0,
            "learning_rate": 5e-3,
            "schedule": "1-sqrt",
            "masking_rate": 0.2,
            "data": other,
        },
    ]
    values = {
        "steps": None,
        "phases": phases,
        "seq_len": 64,
        "global_batch": 4,
        "model": MODEL,
        "schedule": {"name": "constant", "warmup_steps": 1},
        "eval": {"every": 1, "steps": 1},
        "checkpoint": {"every": 1, "keep": 99},
    }
    return tiny_config(place / "text.txt", **{**values, **changes})


@pytest.fixture(scope="module")
def whole(place):
    workdir = epath.Path(place / "whole")
    with on_one_device():
        return workdir, train(three_phases(place), workdir)


def test_a_run_that_stops_within_each_phase_and_at_each_boundary_is_the_same_to_the_bit(
    whole, place, monkeypatch, caplog
):
    workdir = epath.Path(place / "parts")
    made, make = [], train_module.make_train_step

    def making(model, *arguments, **more):
        made.append((model.config.own.global_rope_theta, model.config.own.local_rope_theta))
        return make(model, *arguments, **more)

    evaluated, evaluator = {}, train_module.Evaluator

    def evaluating(model, objective, phase, *arguments):
        evaluated[phase.number] = model.config.own.global_rope_theta, model.config.own.local_rope_theta
        return evaluator(model, objective, phase, *arguments)

    monkeypatch.setattr(train_module, "make_train_step", making)
    monkeypatch.setattr(train_module, "Evaluator", evaluating)
    caplog.set_level("INFO")
    for stop in (2, 3, 5, 6, 7):
        with monkeypatch.context() as patch, on_one_device():
            stop_at(patch, stop)
            assert train(three_phases(place), workdir).step == stop
    with on_one_device():
        resumed = train(three_phases(place), workdir)
    assert [line for line in caplog.messages if " of 3 begins" in line] == [
        "step 3: phase 2 of 3 begins: seq_len 16 -> 64, global_batch 8 -> 4, learning_rate 0.01 -> 0.005, "
        "global_rope_theta 10000.0 -> 160000.0, data.packing documents -> full",
        "step 6: phase 3 of 3 begins: masking_rate 0.15 -> 0.2, schedule constant -> 1-sqrt, local_rope_theta 10000.0 "
        f"-> 500.0, data.path {place / 'text.txt'} -> {place / 'other.txt'}",
    ]
    assert losses(workdir) == losses(whole[0])
    assert list(dict.fromkeys(made)) == BASES and evaluated == dict(enumerate(BASES))
    for expected, actual in zip(leaves(whole[1].state), leaves(resumed.state), strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert (workdir / "model.json").read_text() == (whole[0] / "model.json").read_text()


def test_the_learning_rate_of_a_phase_is_the_one_that_is_used(whole):
    lines = [json.loads(line) for line in (whole[0] / "metrics.jsonl").read_text().splitlines()]
    rates = [line["train/learning_rate"] for line in lines if "train/loss" in line]
    np.testing.assert_allclose(rates, [0, 1e-2, 1e-2, *[5e-3] * 4, 5e-3 * (1 - 0.5**0.5)], rtol=1e-6)


def test_rows_of_a_phase_are_packed_as_it_says_from_where_the_corpus_stood(whole):
    job = whole[1].job
    assert [phase.data.packing for phase in job.phases] == ["documents", "full", "full"]
    assert job.data_keys == ("0", "0", "2")
    read = [restore_params(whole[0], step)[1]["data"]["0"] for step in (3, 6)]
    assert read[0].keys() == read[1].keys() and all(read[0][name] != read[1][name] for name in read[0])


def test_each_checkpoint_is_exported_and_evaluated_with_the_rotation_of_its_phase(whole, place):
    workdir, job = whole[0], whole[1].job
    logged = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    logged = {line["step"]: line["eval/loss"] for line in logged if "eval/loss" in line}
    bases = []
    for phase, step in zip(job.phases, STEPS):
        out = epath.Path(place / f"out{step}")
        export(workdir, out, step=str(step))
        encoder, params = load_pretrained(str(out))
        bases.append((encoder.own.global_rope_theta, encoder.own.local_rope_theta))
        mesh = make_mesh(job.config.mesh, jax.devices()[:1])
        rows = held_out_rows(workdir, phase, job.tokenizer, phase.global_batch)
        with jax.set_mesh(mesh):
            found = Evaluator(build(encoder), job.evaluations[phase.index], phase, mesh, rows)(params)
        assert found["eval/loss"] == pytest.approx(logged[step], rel=1e-5)
    assert bases == BASES
    values = json.loads((workdir / "model.json").read_text())
    assert (values["global_rope_theta"], values["local_rope_theta"]) == (1.6e5, 500.0)


def test_a_run_that_starts_from_it_has_its_last_rotation_and_keeps_it_when_it_goes_on(
    whole, place, monkeypatch
):
    config = tiny_config(
        place / "text.txt",
        steps=None,
        phases=[{"steps": 1}, {"steps": 2, "global_rope_theta": 77.0}],
        init_from=str(whole[0]),
        model={"family": "modernbert"},
        seq_len=16,
    )
    workdir = epath.Path(place / "later")
    with monkeypatch.context() as patch, on_one_device():
        stop_at(patch, 2)
        assert train(config, workdir).step == 2
    assert json.loads((workdir / "model.json").read_text())["global_rope_theta"] == 77.0
    with on_one_device():
        job = train(config, workdir).job
    assert [model.config.own.global_rope_theta for model in job.models] == [1.6e5, 77.0]
    assert job.given.model.global_rope_theta == 1.6e5
    bases = [restore_params(workdir, step)[1]["rotary"]["global_rope_theta"] for step in (2, 3)]
    assert bases == [77.0, 77.0]


def test_a_rotation_is_refused_where_the_family_has_none(place):
    config = tiny_config(
        place / "text.txt",
        steps=None,
        phases=[{"steps": 2, "local_rope_theta": 5.0}],
    )
    message = r"config\.phases\[0\]\.local_rope_theta=5 has no effect: roberta has no such field; unset it"
    with pytest.raises(UserError, match=message), on_one_device():
        train(config, epath.Path(place / "roberta"))


@pytest.mark.parametrize("every", [0, 1])
def test_text_of_a_phase_that_is_not_there_is_named_where_it_is_set(place, every):
    lost = {"source": "files", "path": "", "streams": 4}
    config = three_phases(place, phases=[{"steps": 2}, {"steps": 2, "data": lost}], eval={"every": every})
    with pytest.raises(UserError, match=r"config\.phases\[1\]\.data\.path='' names no file"), on_one_device():
        train(config, epath.Path(place / f"lost{every}"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"streams": 2}, r"config.phases\[1\].data.streams=2 should be 4, as config.data.streams is"),
        ({"split_files": False}, r"config.phases\[1\].data.split_files=False should be True, as config.data"),
    ],
)
def test_a_phase_that_goes_on_in_a_corpus_divides_it_as_the_phase_before(place, change, message):
    same = {"source": "files", "path": str(place / "text.txt"), "streams": 4, "eval_fraction": 0.1}
    phases = [{"steps": 2}, {"steps": 2, "data": {**same, **change}}]
    with pytest.raises(UserError, match=message), on_one_device():
        assemble(three_phases(place, phases=phases), epath.Path(place / "divided"), None)


@pytest.mark.parametrize("name", ["global_rope_theta", "local_rope_theta", "learning_rate"])
def test_a_rotation_and_a_rate_are_above_zero(place, name):
    config = three_phases(place, phases=[{"steps": 1, name: 0.0}])
    with (
        pytest.raises(UserError, match=rf"config\.phases\[0\]\.{name}=0 should be greater than 0"),
        on_one_device(),
    ):
        train(config, epath.Path(place / "zero"))


def test_a_start_has_the_rotation_of_the_checkpoint_although_model_json_is_of_the_phase_after(place, whole):
    """A kill between the two writes at a boundary leaves them so."""
    workdir = epath.Path(place / "killed")
    branch(whole[0], workdir, 3)
    values = json.loads((workdir / "model.json").read_text())
    assert values["global_rope_theta"] == 1e4
    (workdir / "model.json").write_text(json.dumps({**values, "global_rope_theta": 1.6e5}))
    config = tiny_config(
        place / "text.txt", init_from=str(workdir), model={"family": "modernbert"}, seq_len=16
    )
    with on_one_device():
        job = assemble(config, epath.Path(place / "from_killed"), None)
    assert (job.encoder.own.global_rope_theta, job.given.model.global_rope_theta) == (1e4, 1e4)
    start = load_encoder_for_classification(str(workdir), ("a", "b"))
    assert start.classifier.encoder.config.own.global_rope_theta == start.config["global_rope_theta"] == 1e4


def test_a_run_of_fine_tuning_is_no_start_of_pretraining_and_the_message_says_what_is(tmp_path, monkeypatch):
    class OfFineTuning:
        def __init__(self, workdir, create):
            assert not create

        def read_run(self):
            return {"config": {"task": "sst2"}}

        def close(self):
            pass

    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr("pretrain.trained_network.Checkpointer", OfFineTuning)
    with pytest.raises(UserError, match=r"is a run of fine-tuning; name its folder model/"):
        newest_network(epath.Path(tmp_path))
