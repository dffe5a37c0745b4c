"""A network as pure functions of a dict of arrays.

Flax NNX describes the parts once (`jax.eval_shape`, `nnx.split`); a part is put together again with `nnx.merge` inside
jit. The params of all layers are stacked on a leading axis L and run by `jax.lax.scan`: no layer is ever indexed on its
own, since the gradient of an index pads every layer to all L.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from pretrain.models import attention
from pretrain.models.config import EncoderConfig
from pretrain.models.encoder import Embeddings, EncoderLayer, MaskedLMHead

Params = dict[str, Any]


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters."""

    embeddings: int
    """Word, position and token-type tables and their layer norm."""
    layers: int
    """All layers of the encoder."""
    head: int
    """The masked-language-model head, without a tied output matrix."""

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embeddings + self.layers + self.head


@dataclass(frozen=True)
class Model:
    """An encoder with its masked-language-model head: functions of `params`, a nested dict of float32 arrays.

    `params` has the parts `embeddings`, `layers` (every array stacked, [L, ...]) and `head`.
    """

    config: EncoderConfig
    dtype: str
    """Compute type; layer norms, softmax and logits are float32 whatever it is."""
    embeddings: nnx.GraphDef[Any]
    layer: nnx.GraphDef[Any]
    head: nnx.GraphDef[Any]

    def init(self, key: Key[Array, ""]) -> Params:
        """Fresh params as transformers draws them: normal kernels and embeddings, zero padding rows and biases.

        Run it under `jax.jit` with `out_shardings` made of `logical_axes()`, and each device draws its own share only.
        """
        embeddings, layers, head = jax.random.split(key, 3)

        def init_layer(layer_key: Key[Array, ""]) -> Params:
            return _pure(EncoderLayer(nnx.Rngs(layer_key), self.config))

        return {
            "embeddings": _pure(Embeddings(nnx.Rngs(embeddings), self.config)),
            "layers": jax.vmap(init_layer)(jax.random.split(layers, self.config.num_hidden_layers)),
            "head": _pure(MaskedLMHead(nnx.Rngs(head), self.config)),
        }

    def shapes(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The tree of `params` with a shape and type at each leaf."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def logical_axes(self) -> dict[str, Any]:
        """The tree of `params` with the logical axes of each array (see `pretrain.sharding.RULES`) at its leaves."""
        axes = self._metadata("axes")
        stacked = jax.tree.map(
            lambda names: ("layers", *names), axes["layers"], is_leaf=lambda x: isinstance(x, tuple)
        )
        return {**axes, "layers": stacked}

    def decay_mask(self) -> dict[str, Any]:
        """The tree of `params` with True where weight decay applies: kernels and embeddings, not biases and norms."""
        return self._metadata("decay")

    def encode(
        self,
        params: Params,
        tokens: Int[Array, "B S"],
        segments: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        token_types: Int[Array, "B S"] | None = None,
        *,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B S D"]:
        """Hidden states of the last layer, in the compute type.

        Args:
          params: as `init` gives them.
          tokens: token ids.
          segments: the document within the row, 0 for padding; attention stays within a document.
          positions: position within the document, from 0; at most `config.max_length` - 1.
          token_types: token-type ids; None is type 0 throughout.
          dropout_key: a typed key of any generator; None runs without dropout (evaluation).
        """
        layers = self.config.num_hidden_layers
        embedding_key = None if dropout_key is None else jax.random.fold_in(dropout_key, layers)
        x = nnx.merge(self.embeddings, params["embeddings"])(
            tokens, positions, token_types, jnp.dtype(self.dtype), embedding_key
        )

        def run_layer(x: Float[Array, "B S D"], inputs: tuple[Params, jax.Array]) -> tuple[jax.Array, None]:
            layer_params, index = inputs
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
            return nnx.merge(self.layer, layer_params)(x, segments, key), None

        unroll = self.config.scan_unroll or layers
        if self.config.remat:
            # Only a loop keeps the backward pass apart from the forward pass: where all layers are unrolled, XLA finds
            # that it computes the same twice and keeps the first result (on CPU whatever prevent_cse says).
            unroll = unroll if unroll < layers else 1
            run_layer = jax.checkpoint(run_layer, prevent_cse=False)
        inputs = (params["layers"], jnp.arange(layers))
        return jax.lax.scan(run_layer, x, inputs, unroll=unroll)[0]

    def predict(self, params: Params, hidden: Float[Array, "B K D"]) -> Float[Array, "B K V"]:
        """Logits (float32) over the vocabulary for hidden states: all S of a row, or the K that are predicted."""
        return nnx.merge(self.head, params["head"])(hidden, params["embeddings"]["word"])

    def count(self) -> ParameterCount:
        """Numbers of parameters, by part."""
        shapes = self.shapes()
        return ParameterCount(
            **{part: sum(leaf.size for leaf in jax.tree.leaves(shapes[part])) for part in shapes}
        )

    def _metadata(self, name: str) -> dict[str, Any]:
        """A tree like params of what the parameters' declarations say under this name, for one layer."""
        return {part: _metadata(module, name) for part, module in _abstract(self.config).items()}


def build(config: EncoderConfig, *, dtype: str = "float32") -> Model:
    """The network of a config.

    Args:
      config: the network's sizes and how to run it.
      dtype: compute type, float32 or bfloat16; params are float32.

    Raises:
      UserError: an attention kernel that cannot run here.
    """
    kernel = attention.resolve(config.attention, dtype, config.attention_probs_dropout_prob)
    config = dataclasses.replace(config, attention=kernel)
    parts = {name: nnx.split(module)[0] for name, module in _abstract(config).items()}
    return Model(config, dtype, parts["embeddings"], parts["layers"], parts["head"])


def _abstract(config: EncoderConfig) -> dict[str, nnx.Module]:
    """The parts of the network with shapes for arrays."""
    parts: dict[str, Callable[[], nnx.Module]] = {
        "embeddings": lambda: Embeddings(nnx.Rngs(0), config),
        "layers": lambda: EncoderLayer(nnx.Rngs(0), config),
        "head": lambda: MaskedLMHead(nnx.Rngs(0), config),
    }
    return {name: nnx.eval_shape(make) for name, make in parts.items()}


def _pure(module: nnx.Module) -> Params:
    return nnx.to_pure_dict(nnx.state(module))


def _metadata(module: nnx.Module, name: str) -> dict[str, Any]:
    def read(variable: nnx.Variable[Any]) -> Any:
        return variable.get_metadata(name)

    state = nnx.state(module)
    return nnx.to_pure_dict(jax.tree.map(read, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)))
