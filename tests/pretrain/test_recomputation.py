"""Policies of recomputation: what they compute, what they keep, and where they are refused."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from base.errors import UserError
from base.schema import build as build_config
from base.schema import completed
from pretrain.checks import check_compiler, tpu_generation
from pretrain.config import PretrainConfig
from pretrain.model_config import REMAT_POLICIES
from pretrain.models import build_encoder
from pretrain.models.attention import KERNELS
from pretrain.models.huggingface import parse_config

B, S = 2, 24
SIZES = {
    "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 40, "pad_token_id": 1, "local_attention": 4, "global_attn_every_n_layers": 2,
}  # fmt: skip


@functools.cache
def _gradients(family: str, policy: str):
    """The loss of an encoder with dropout, its gradients, and the number of values kept for them."""
    config = parse_config({"model_type": family, "bos_token_id": 0, "eos_token_id": 2, **SIZES}, "test")
    config = dataclasses.replace(config, remat=policy, attention_probs_dropout_prob=0.1)
    encoder = build_encoder(config)
    params = encoder.init(jax.random.key(0))
    tokens = jnp.asarray(np.random.default_rng(0).integers(5, 64, (B, S)), jnp.int32)
    segments = jnp.asarray([[1] * 10 + [2] * 14, [1] * 20 + [0] * 4], jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(S), (B, S))

    def loss(params):
        hidden = encoder.encode(params, tokens, segments, positions, dropout_key=jax.random.key(1))
        return jnp.sum(jnp.square(hidden) * (segments > 0)[:, :, None])

    kept = jax.tree.leaves(jax.eval_shape(lambda: jax.vjp(loss, params)[1]))
    return jax.jit(jax.value_and_grad(loss))(params), sum(leaf.size for leaf in kept)


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
@pytest.mark.parametrize("policy", ["attention", "full"])
def test_a_policy_changes_no_loss_and_no_gradient_and_keeps_less(family: str, policy: str):
    (loss, gradients), kept = _gradients(family, policy)
    (expected, reference), everything = _gradients(family, "none")
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for mine, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5 * float(jnp.abs(theirs).max()) + 1e-7)
    assert kept < (0.9 if policy == "attention" else 0.5) * everything


@functools.cache
def _program(kernel: str, length: int, layers: int = 2, first: int | None = None, **fields) -> str:
    """The program of an encoder that recomputes attention, and of its gradients."""
    sizes = SIZES | {"max_position_embeddings": length + 2, "num_hidden_layers": layers}
    config = parse_config({"model_type": "roberta", **sizes}, "test")
    encoder = build_encoder(dataclasses.replace(config, remat="attention", attention=kernel, **fields))
    tokens = jnp.ones((1, length), jnp.int32)

    def loss(params):
        return jnp.sum(encoder.encode(params, tokens, tokens, tokens, first=first))

    return str(jax.make_jaxpr(jax.grad(loss))(encoder.shapes()))


def test_a_kernel_that_keeps_no_scores_is_not_run_again():
    assert "remat" in _program("xla", 1024)
    assert "remat" not in _program("chunked", 1024)
    assert "remat" in _program("chunked", 512), "one chunk is the whole row, whose scores are kept"
    assert {name for name, kernel in KERNELS.items() if not kernel.scores_up_to} == {
        "cudnn", "triton", "splash",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("layers", "unroll", "first", "kinds"),
    [
        (4, 1, None, {"False"}),
        (4, 2, None, {"False"}),
        (4, 0, None, {"True"}),
        (4, 4, None, {"True"}),
        (4, 9, None, {"True"}),
        (4, 1, 1, {"False", "True"}),
        (4, 3, 1, {"True"}),
        (5, 2, None, {"False", "True"}),
        (5, 4, None, {"True"}),
    ],
)
def test_xla_may_not_undo_recomputation_where_no_loop_keeps_it_from_that(
    layers: int, unroll: int, first: int | None, kinds: set[str]
):
    program = _program("xla", 16, layers, first, scan_unroll=unroll)
    assert set(re.findall(r"prevent_cse=(\w+)", program)) == kinds


@pytest.mark.parametrize("policy", REMAT_POLICIES)
def test_layers_are_unrolled_on_a_tpu_where_the_policy_needs_no_loop(policy: str):
    config = parse_config({"model_type": "roberta", **SIZES}, "test")
    config = dataclasses.replace(config, remat=policy, scan_unroll=None)
    deep = dataclasses.replace(config, num_hidden_layers=25)
    unrolled = [build_encoder(each, platform="tpu").config.unrolled for each in (config, deep)]
    assert unrolled == [policy in ("none", "attention"), False]
    assert not build_encoder(config, platform="gpu").config.unrolled


@pytest.mark.parametrize(("given", "policy"), [(True, "full"), (False, "none"), ("attention", "attention")])
def test_a_policy_may_be_given_as_a_boolean_as_earlier_runs_have_it(given: object, policy: str):
    assert build_config(PretrainConfig, {"model": {"remat": given}}).model.remat == policy
    assert completed({"model": {"remat": given}}, PretrainConfig)["model"]["remat"] == policy


def test_offloading_is_refused_on_a_cpu():
    config = dataclasses.replace(parse_config({"model_type": "roberta", **SIZES}, "test"), remat="offload")
    with pytest.raises(UserError, match=r"^config.model.remat=offload needs a GPU or a TPU"):
        build_encoder(config, platform="cpu")


def test_a_step_that_crashes_libtpu_is_refused():
    config = build_config(PretrainConfig, {"model": {"remat": "full"}})
    with pytest.raises(UserError, match=r"with config.mesh.fsdp=64 crashes the compiler of TPU v5e"):
        check_compiler(config, {"fsdp": 64}, tpu_generation("TPU v5 lite"))
    check_compiler(config, {"fsdp": 16}, "v5e")
    check_compiler(config, {"fsdp": 64}, tpu_generation("TPU v4"))
    check_compiler(PretrainConfig(), {"fsdp": 64}, "v5e")
