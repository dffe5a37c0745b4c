"""A masked language model: an encoder and the head that predicts tokens, as pure functions of a dict of arrays."""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from pretrain.devices.mesh import gathered
from pretrain.models import lean_gradients, module_shapes
from pretrain.models.attention import NOTHING_KNOWN, Use
from pretrain.models.config import EncoderConfig
from pretrain.models.encoder import Encoder, build_encoder
from pretrain.models.module_shapes import Params


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters."""

    embeddings: int
    """Word, position and token-type tables and their layer norm."""
    layers: int
    """All layers of the encoder."""
    head: int
    """The masked-language-model head, without a tied output matrix."""
    final: int = 0
    """What follows the last layer."""
    shared: int = 0
    """What all layers read."""

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embeddings + self.layers + self.final + self.shared + self.head


@dataclass(frozen=True)
class Model:
    """An encoder with its masked-language-model head: functions of `params`, a nested dict of float32 arrays.

    `params` has the parts `embeddings`, `layers` (every array stacked, [L, ...]), `head`, and `final` and `shared` if
    the family has them.
    """

    encoder: Encoder
    head: nnx.GraphDef[Any]

    @property
    def config(self) -> EncoderConfig:
        """The network's sizes and how it is run."""
        return self.encoder.config

    @property
    def dtype(self) -> str:
        """Compute type; layer norms, softmax and logits are float32 whatever it is."""
        return self.encoder.dtype

    def init(self, key: Key[Array, ""]) -> Params:
        """Fresh params as transformers draws them: normal kernels and embeddings, zero padding rows and biases.

        Run it under `jax.jit` with `out_shardings` made of `logical_axes()`, and each device draws its own share only.
        """
        head = _make_head(self.config, nnx.Rngs(jax.random.split(key, 3)[2]))
        return {**self.encoder.init(key), "head": module_shapes.pure(head)}

    def modules(self) -> dict[str, nnx.Module]:
        """The parts with shapes for arrays: a single layer for all of them."""
        return self.encoder.modules() | {"head": _abstract_head(self.config)}

    def shapes(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The tree of `params` with a shape and type at each leaf."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def logical_axes(self) -> dict[str, Any]:
        """The tree of `params` with the logical axes of each array at its leaves (see `pretrain.devices.mesh`)."""
        return module_shapes.logical_axes(self.modules())

    def decay_mask(self) -> dict[str, Any]:
        """The tree of `params` with True where weight decay applies: kernels and embeddings, not biases and norms."""
        return module_shapes.decay_mask(self.modules())

    def with_shared_table(self, params: Params) -> Params:
        """The params of a training step, in which the look-up of tokens and the tied head read one rounded table.

        Its gradients are then added in the compute type, and devices exchange their sum alone.
        """
        dtype = jnp.dtype(self.dtype)
        if not (lean_gradients.are_used(dtype) and self.config.tie_word_embeddings):
            return params
        embeddings = params["embeddings"]
        axes = self.encoder.logical_axes()["embeddings"]["word"]
        word = gathered(lean_gradients.cast_once(embeddings["word"].astype(dtype)), axes)
        return {**params, "embeddings": {**embeddings, "word": word}}

    def encode(
        self,
        params: Params,
        tokens: Int[Array, "B S"],
        segments: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        token_types: Int[Array, "B S"] | None = None,
        *,
        dropout_key: Key[Array, ""] | None = None,
        causal: bool = False,
        predicted: Int[Array, "B K"] | None = None,
    ) -> Float[Array, "B Q D"]:
        """Hidden states of the last layer, in the compute type; arguments as in `Encoder.encode`."""
        return self.encoder.encode(
            *(params, tokens, segments, positions, token_types),
            dropout_key=dropout_key,
            causal=causal,
            predicted=predicted,
        )

    def evaluated(self) -> "Model":
        """The model as it is evaluated and exported: no layer reads the state of tokens before an earlier layer.

        The last layer may compute the predicted tokens alone, which gives the same.
        """
        narrow = min(self.config.narrow_layers, 1)
        config = dataclasses.replace(self.config, narrow_layers=narrow)
        return dataclasses.replace(self, encoder=dataclasses.replace(self.encoder, config=config))

    @jax.named_scope("head")
    def predict(self, params: Params, hidden: Float[Array, "B K D"]) -> Float[Array, "B K V"]:
        """Logits (float32) over the vocabulary for hidden states: all S of a row, or the K that are predicted.

        V is `config.vocab_rows`. Padding rows have the lowest float32 logit, so that they are never predicted.
        """
        logits: jax.Array = nnx.merge(self.head, params["head"])(hidden, params["embeddings"]["word"])
        tokens, rows = self.config.vocab_size, self.config.vocab_rows
        return (
            logits
            if rows == tokens
            else jnp.where(jnp.arange(rows) < tokens, logits, jnp.finfo(jnp.float32).min)
        )

    def sizes(self) -> PyTree[int]:
        """The tree of `params` with the number of parameters at each leaf, the vocabulary's padding left out."""
        tokens = self.config.vocab_size

        def size(leaf: jax.ShapeDtypeStruct, axes: tuple[str | None, ...]) -> int:
            return math.prod(
                tokens if name == "vocab" else length for name, length in zip(axes, leaf.shape, strict=True)
            )

        return jax.tree.map(size, self.shapes(), self.logical_axes())

    def count(self) -> ParameterCount:
        """Numbers of parameters, by part.

        The vocabulary's padding and the unused modules of the first layer are not counted.
        """
        counts = {part: sum(jax.tree.leaves(sizes)) for part, sizes in self.sizes().items()}
        for module in self.config.family.first_layer_lacks:
            part, *path = module.split("/")
            idle: Any = module_shapes.pure(self.modules()[part])
            for name in path:
                idle = idle[name]
            counts[part] -= sum(leaf.size for leaf in jax.tree.leaves(idle))
        return ParameterCount(**counts)


def build(
    config: EncoderConfig, *, dtype: str = "float32", platform: str | None = None, use: Use = NOTHING_KNOWN
) -> Model:
    """The network of a config.

    Args:
      config: the network's sizes and how to run it.
      dtype: compute type, float32 or bfloat16; params are float32.
      platform: where it is to run, cpu, gpu or tpu; default: where jax runs.
      use: what the run asks of the attention kernel.

    Raises:
      UserError: an attention kernel that cannot run here, or a family that has no masked-language-model head here.
    """
    config.require_masked_lm()
    encoder = build_encoder(config, dtype=dtype, platform=platform, use=use)
    return Model(encoder, nnx.split(_abstract_head(config))[0])


@functools.lru_cache(maxsize=32)
def _abstract_head(config: EncoderConfig) -> nnx.Module:
    return module_shapes.abstract({"head": lambda: _make_head(config, nnx.Rngs(0))})["head"]


def _make_head(config: EncoderConfig, rngs: nnx.Rngs) -> nnx.Module:
    assert config.family.head is not None
    return config.family.head(rngs, config)
