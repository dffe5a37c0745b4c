"""How long a run is, what its phases hold, and what is refused before anything is read."""

import pytest

from base.errors import UserError
from base.schema import build
from data.special_tokens import SpecialTokens
from pretrain.checks import _use
from pretrain.config import MeshConfig, ModelConfig, PretrainConfig
from pretrain.devices.mesh import mesh_sizes
from pretrain.job import notes_on_packing
from pretrain.models.huggingface import encoder_config
from pretrain.phases import check_length, check_lengths, check_phase, check_values, resolve_phases


def config(**values):
    return build(PretrainConfig, values)


def test_one_phase_spans_the_run():
    (phase,) = resolve_phases(config(steps=10, seq_len=64, global_batch=16))
    assert (phase.start, phase.stop, phase.seq_len, phase.global_batch) == (0, 10, 64, 16)


def test_phases_follow_one_another_and_inherit_from_the_run():
    phases = resolve_phases(
        config(
            seq_len=128,
            masking={"rate": 0.3},
            phases=[{"steps": 9}, {"steps": 1, "seq_len": 512, "masking_rate": 0.15}],
        )
    )
    assert [(p.start, p.stop, p.seq_len, p.masking_rate) for p in phases] == [
        (0, 9, 128, 0.3),
        (9, 10, 512, 0.15),
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "set exactly one of config.steps, config.epochs and config.phases; none of them is set"),
        ({"steps": 1, "epochs": 1}, "config.steps and config.epochs are set"),
        ({"epochs": 0}, "config.epochs=0 should be 1 or more"),
    ],
)
def test_the_length_is_given_once(values, message):
    with pytest.raises(UserError, match=message):
        check_lengths(config(**values))


def test_a_run_without_steps_is_refused():
    with pytest.raises(UserError, match=r"config\.phases\[1\]\.steps=0 should be 1 or more"):
        resolve_phases(config(phases=[{"steps": 1}, {}]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eval": {"every": -1}}, "config.eval.every=-1 should be 0"),
        ({"masking": {"mask_fraction": 0.9, "random_fraction": 0.2}}, "add up to more than 1"),
        (
            {"optimizer": {"learning_rate": -1.0}},
            "config.optimizer.learning_rate=-1.0 should be greater than 0",
        ),
        ({"optimizer": {"clip_norm": -1.0}}, "config.optimizer.clip_norm=-1.0 should be 0"),
        ({"checkpoint": {"every": 0}}, "config.checkpoint.every=0 should be greater than 0"),
        (
            {"optimizer": {"learning_rate": float("inf")}},
            "config.optimizer.learning_rate=inf should be .* and finite",
        ),
        ({"seed": 2**31}, "config.seed=2147483648 should be at most 2147483647"),
        ({"seed": -1}, "config.seed=-1 should be 0 or more"),
        ({"time_limit": -7.0}, "config.time_limit=-7 should be a number of seconds"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        check_values(config(**values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seq_len": 3}, "config.seq_len=3 should be 4 or more"),
        ({"global_batch": 0}, "config.global_batch=0 should be 1 or more"),
        ({"grad_accum": -1}, "config.grad_accum=-1 should be 1 or more"),
        ({"masking": {"rate": 1.5}}, "config.masking.rate=1.5 should be above 0 and at most 1"),
        ({"masking": {"rate": 0.0}}, "config.masking.rate=0.0 should be above 0"),
        ({"data": {"streams": 0}}, "config.data.streams=0 should be 1 or more"),
        ({"global_batch": 20}, "config.global_batch=20 should be a multiple of 8: 8 devices that share it"),
        ({"global_batch": 24, "grad_accum": 2}, "should be a multiple of 16"),
        ({"global_batch": 16, "data": {"streams": 5}}, "should be a multiple of config.data.streams=5"),
    ],
)
def test_batches_and_rows_that_do_not_fit_are_refused(values, message):
    (phase,) = resolve_phases(config(steps=1, **values))
    with pytest.raises(UserError, match=message):
        check_phase(phase, mesh_sizes(MeshConfig(), 8))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"global_batch": 8, "data": {"streams": 16}},
            "config.phases[0].global_batch=8 should be a multiple of config.phases[0].data.streams=16",
        ),
        (
            {"data": {"streams": 7}},
            "config.global_batch=256 should be a multiple of config.phases[0].data.streams=7",
        ),
        ({"data": {"window": 0}}, "config.phases[0].data.window=0 should be 1 or more"),
        (
            {"grad_accum": 3},
            "config.global_batch=256 should be a multiple of 24: 8 devices that share it x "
            "config.phases[0].grad_accum=3",
        ),
        ({"masking_rate": 2.0}, "config.phases[0].masking_rate=2.0 should be above 0 and at most 1"),
        ({"seq_len": 2}, "config.phases[0].seq_len=2 should be 4 or more"),
    ],
)
def test_a_field_is_named_where_it_is_set_in_the_run_or_in_the_phase(values, message):
    (phase,) = resolve_phases(config(phases=[{"steps": 1, **values}]))
    with pytest.raises(UserError) as error:
        check_phase(phase, mesh_sizes(MeshConfig(), 8))
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("family", "file", "message"),
    [
        (
            "roberta",
            "",
            "config.phases[1].seq_len=513 is too long for config.model.max_position_embeddings=514 (roberta "
            "sets 2 of them aside); set that to 515, or config.phases[1].seq_len to 512 or less",
        ),
        (
            "bert",
            "",
            "config.phases[1].seq_len=515 is too long for config.model.max_position_embeddings=514; "
            "set that to 515, or config.phases[1].seq_len to 514 or less",
        ),
        (
            "roberta",
            "there/config.json",
            "config.phases[1].seq_len=513 should be 512 or less: there/config.json has no more positions",
        ),
    ],
)
def test_rows_longer_than_the_network_takes_are_refused_with_the_value_that_would_do(family, file, message):
    special = SpecialTokens(cls=0, sep=2, pad=1, mask=4, unk=3)
    encoder = encoder_config(ModelConfig(family=family), 300, special)
    fits, too_long = resolve_phases(
        config(
            phases=[
                {"steps": 1, "seq_len": length} for length in (encoder.max_length, encoder.max_length + 1)
            ]
        )
    )
    check_length(fits, encoder, file)
    with pytest.raises(UserError) as caught:
        check_length(too_long, encoder, file)
    assert str(caught.value) == message


def test_data_of_a_phase_that_leaves_out_the_packing_of_the_run_is_noted():
    own = {"steps": 2, "data": {"source": "files", "path": "best.txt"}}
    phases = [{"steps": 3}, own, {**own, "packing": "documents"}]
    assert notes_on_packing(config(data={"packing": "documents"}, phases=phases)) == [
        "config.phases[1].data.packing='full', but config.data.packing='documents'"
    ]


@pytest.mark.parametrize(
    ("packing", "packed"), [("full", False), ("lines", False), ("documents", True), ("best_fit", True)]
)
def test_documents_that_share_a_row_and_do_not_see_each_other_need_a_kernel_that_keeps_them_apart(
    packing, packed
):
    phases = resolve_phases(config(steps=1, data={"packing": packing}))
    assert _use(phases).packed is packed
