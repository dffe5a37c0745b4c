"""An encoder as pure functions of a dict of arrays.

Flax NNX describes the parts once (`jax.eval_shape`, `nnx.split`); `nnx.merge` rebuilds a part inside jit. The params of
all layers are stacked on a leading axis L and run by `jax.lax.scan`. No layer is indexed alone, because the gradient of
an index pads every layer to all L. Values that differ between layers (a window, a rotation) are arrays with a leading
axis L too, and are scanned with the params.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from pretrain.models import attention, module_shapes
from pretrain.models.config import EncoderConfig
from pretrain.models.families.family import Maker
from pretrain.models.module_shapes import Params


@dataclass(frozen=True)
class Encoder:
    """Embeddings, layers and what follows them: functions of `params`, a nested dict of float32 arrays.

    `params` has the parts `embeddings`, `layers` (every array stacked, [L, ...]) and, where the family normalises what
    the last layer gives, `final`. Other parts in it are passed over.
    """

    config: EncoderConfig
    dtype: str
    """Compute type; layer norms and softmax are float32 whatever it is."""
    embeddings: nnx.GraphDef[Any]
    layer: nnx.GraphDef[Any]
    final: nnx.GraphDef[Any] | None
    kernel: attention.Choice = dataclasses.field(compare=False)
    """The attention kernel that it runs, and the reasons against faster kernels."""

    def init(self, key: Key[Array, ""]) -> Params:
        """Fresh params as transformers draws them: normal kernels and embeddings, zero padding rows and biases.

        Under `jax.jit` with `out_shardings` made of `logical_axes()`, each device draws only its own shard. `key` is
        split into three keys; the third is for a head.
        """
        embeddings, layers, _ = jax.random.split(key, 3)
        parts = self.config.family.parts

        def init_layer(layer_key: Key[Array, ""]) -> Params:
            return module_shapes.pure(parts.layer(nnx.Rngs(layer_key), self.config))

        params = {
            "embeddings": module_shapes.pure(parts.embeddings(nnx.Rngs(embeddings), self.config)),
            "layers": jax.vmap(init_layer)(jax.random.split(layers, self.config.num_hidden_layers)),
        }
        if parts.final:
            params["final"] = module_shapes.pure(parts.final(nnx.Rngs(0), self.config))
        return params

    def modules(self) -> dict[str, nnx.Module]:
        """The parts as abstract modules, with shapes instead of arrays; `layers` is a single layer."""
        return _modules(self.config)

    def shapes(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The tree of `params` with a shape and type at each leaf."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def logical_axes(self) -> dict[str, Any]:
        """The tree of `params` with the logical axes of each array at its leaves (see `pretrain.devices.mesh`)."""
        return module_shapes.logical_axes(self.modules())

    def decay_mask(self) -> dict[str, Any]:
        """The tree of `params` with True where weight decay applies: kernels and embeddings, not biases and norms."""
        return module_shapes.decay_mask(self.modules())

    def encode(
        self,
        params: Params,
        tokens: Int[Array, "B S"],
        segments: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        token_types: Int[Array, "B S"] | None = None,
        *,
        dropout_key: Key[Array, ""] | None = None,
        first: int | None = None,
        causal: bool = False,
    ) -> Float[Array, "B Q D"]:
        """Hidden states of the last layer, in the compute type.

        Args:
          params: as `init` gives them.
          tokens: token ids.
          segments: the document within the row, 0 for padding; attention stays within a document.
          positions: position within the document, from 0; at most `config.max_length` - 1.
          token_types: token-type ids, passed over by families that have none; None is type 0 throughout.
          dropout_key: a typed key of any generator; None runs without dropout (evaluation).
          first: Q, the number of first tokens of each row whose hidden states are returned; the last layer computes
            only these. None returns all of them, Q = S.
          causal: whether a token sees itself and earlier tokens of its document alone.
        """
        layers = self.config.num_hidden_layers
        embedding_key = None if dropout_key is None else jax.random.fold_in(dropout_key, layers)
        x = nnx.merge(self.embeddings, params["embeddings"])(
            tokens, positions, token_types, jnp.dtype(self.dtype), embedding_key
        )

        def run_layer(
            x: Float[Array, "B S D"],
            inputs: tuple[Params, dict[str, jax.Array], jax.Array],
            first: int | None = None,
        ) -> tuple[jax.Array, None]:
            layer_params, traits, index = inputs
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
            return nnx.merge(self.layer, layer_params)(
                x, segments, positions, key, first, causal=causal, **traits
            ), None

        traits = self.config.family.parts.layer.traits(self.config)
        scanned = {name: jnp.asarray(values) for name, values in traits.items()}
        stacked, last = (params["layers"], scanned, jnp.arange(layers)), None
        if first is not None:
            stacked, last = _split_off_last(stacked)
        unroll = self.config.scan_unroll or layers
        body = run_layer
        if self.config.remat:
            # Recomputation needs a loop. If all layers are unrolled, XLA finds the same computation in both passes and
            # keeps the first result (on CPU with any value of prevent_cse).
            unroll = unroll if unroll < layers else 1
            body = jax.checkpoint(run_layer, prevent_cse=False)
        x, _ = jax.lax.scan(body, x, stacked, unroll=unroll)
        if last is not None:
            x, _ = run_layer(x, last, first)
        return x if self.final is None else nnx.merge(self.final, params["final"])(x)


def _split_off_last(stacked: Any) -> tuple[Any, Any]:
    """Split the stacked layers into all but the last, and the last. The gradient of a split is a concatenation."""
    leaves, tree = jax.tree.flatten(stacked)
    parts = [jax.lax.split(leaf, (leaf.shape[0] - 1, 1)) for leaf in leaves]
    return (
        jax.tree.unflatten(tree, [rest for rest, _ in parts]),
        jax.tree.unflatten(tree, [last[0] for _, last in parts]),
    )


def build_encoder(
    config: EncoderConfig,
    *,
    dtype: str = "float32",
    platform: str | None = None,
    use: attention.Use = attention.NOTHING_KNOWN,
) -> Encoder:
    """The encoder of a config; `platform` (cpu, gpu or tpu) is where it is to run, by default where jax does.

    Args:
      config: the network's sizes and how to run it.
      dtype: compute type, float32 or bfloat16; params are float32.
      platform: see above.
      use: what the run asks of the attention kernel.

    Raises:
      UserError: an attention kernel that cannot run here.
    """
    kernel = attention.choose(config.attention, attention.Needs.of(config, dtype, platform, use))
    config = dataclasses.replace(config, attention=kernel.name)
    graphs = {part: nnx.split(module)[0] for part, module in _modules(config).items()}
    return Encoder(config, dtype, graphs["embeddings"], graphs["layers"], graphs.get("final"), kernel)


@functools.lru_cache(maxsize=32)  # every tree of shapes, axes and names is made of them
def _modules(config: EncoderConfig) -> dict[str, nnx.Module]:
    parts = config.family.parts
    makers: dict[str, Maker] = {"embeddings": parts.embeddings, "layers": parts.layer}
    if parts.final:
        makers["final"] = parts.final

    def maker(make: Maker) -> Callable[[], nnx.Module]:
        return lambda: make(nnx.Rngs(0), config)

    return module_shapes.abstract({part: maker(make) for part, make in makers.items()})
