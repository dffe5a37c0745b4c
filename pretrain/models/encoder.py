"""An encoder as pure functions of a dict of arrays.

Flax NNX describes the parts once (`jax.eval_shape`, `nnx.split`); `nnx.merge` rebuilds a part inside jit. The params of
all layers are stacked on a leading axis L and run by `jax.lax.scan`. No layer is indexed alone, because the gradient of
an index pads every layer to all L. Values that differ between layers (a window, a rotation) are arrays with a leading
axis L too, and are scanned with the params. Windows that run by blocks or in splash are known to the program, and the
scan runs over turns of layers (whole documents, window, window). With a named xla or chunked they are arrays.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from base.errors import UserError
from pretrain.models import attention, module_shapes, recomputation
from pretrain.models.config import EncoderConfig
from pretrain.models.families.family import Maker
from pretrain.models.kernels.sight import Chosen
from pretrain.models.module_shapes import Params

MOST_UNROLLED = 24
"""The most layers that are unrolled where nothing says otherwise: the time to compile grows with them."""


@dataclass(frozen=True)
class Encoder:
    """Embeddings, layers and what follows them: functions of `params`, a nested dict of float32 arrays.

    `params` has the parts `embeddings` and `layers` (every array stacked, [L, ...]; fewer where layers share them).
    Where the family normalises what the last layer gives, it has `final`; where all layers read the same tables,
    `shared`. Other parts in it are passed over.
    """

    config: EncoderConfig
    dtype: str
    """Compute type; layer norms and softmax are float32 whatever it is."""
    embeddings: nnx.GraphDef[Any]
    layer: nnx.GraphDef[Any]
    outside: nnx.GraphDef[Any]
    """A layer outside the loop over the layers; it is told that no loop runs it."""
    final: nnx.GraphDef[Any] | None
    shared: nnx.GraphDef[Any] | None
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
            "layers": jax.vmap(init_layer)(jax.random.split(layers, self.config.stacked_layers)),
        }
        if parts.final:
            params["final"] = module_shapes.pure(parts.final(nnx.Rngs(0), self.config))
        if parts.shared:
            rngs = nnx.Rngs(jax.random.fold_in(embeddings, 1))
            params["shared"] = module_shapes.pure(parts.shared(rngs, self.config))
        if self.config.position_init == "neighbours":
            assert parts.neighbours is not None
            params = parts.neighbours(params, self.config)
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

    def _known(self, length: int) -> list[dict[str, Any]]:
        """What the program knows of each layer for rows of a length: its window, where the kernel must know it."""
        windows = self.config.windows
        if not (windows and self.kernel.is_given(windows, length)):
            return [{} for _ in range(self.config.num_hidden_layers)]
        return [{"window": window or None} for window in windows]

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
        predicted: Int[Array, "B K"] | None = None,
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
          predicted: places in the row of the tokens whose hidden states are returned, Q = K; the last
            `config.narrow_layers` layers compute only these, and read keys and values of what the layers before them
            give for all tokens (SparseQueries of NarrowBERT, Li et al. 2023). None returns all, or the first.
        """
        layers = self.config.num_hidden_layers
        embedding_key = None if dropout_key is None else jax.random.fold_in(dropout_key, layers)
        with jax.named_scope("embeddings"):
            x = nnx.merge(self.embeddings, params["embeddings"])(
                tokens, positions, token_types, jnp.dtype(self.dtype), embedding_key
            )
        narrow = 0 if predicted is None else min(self.config.narrow_layers, layers - 1)
        shared = None if self.shared is None else nnx.merge(self.shared, params["shared"])
        tables = {} if shared is None else shared(tokens.shape[1], jnp.dtype(self.dtype))
        run_layer = self._layer_function(
            params["layers"], segments, positions, dropout_key, tables, causal=causal
        )
        before = int(self.config.convolves)
        order = _Order.of(
            self._known(tokens.shape[1]),
            max(layers - before - (narrow or first is not None), 0),
            self.config.scan_unroll or layers,
            before,
        )
        begin, turns, rest = self._split(params["layers"], order)
        for layer in begin:
            assert shared is not None
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, layers + 1)
            x = shared.after_first(x, run_layer(x, layer, order.kinds[0], self.outside), segments, key)
        x = self._looped(run_layer, x, turns, order)
        for index, layer in enumerate(rest[: len(rest) - narrow], start=before + order.looped):
            x = run_layer(x, layer, order.kinds[index], self.outside, first if index == layers - 1 else None)

        def run_narrow(hidden: Array, context: Array, layer: Any, known: Mapping[str, Any]) -> Array:
            assert predicted is not None
            return run_layer(context, layer, known, self.outside, chosen=Chosen(hidden, predicted))

        if narrow and predicted is not None:
            context, x = x, _gather(x, predicted)
            for index, layer in enumerate(rest[len(rest) - narrow :], start=layers - narrow):
                run = functools.partial(run_narrow, known=order.kinds[index])
                x = recomputation.of_layer(self.config.remat, run)(x, context, layer)
        x = x if first is None else x[:, :first]
        x = x if self.final is None else nnx.merge(self.final, params["final"])(x)
        return x if narrow or predicted is None else _gather(x, predicted)

    def _layer_function(
        self,
        layers: Params,
        segments: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        dropout_key: Key[Array, ""] | None,
        shared: Mapping[str, Array],
        *,
        causal: bool,
    ) -> Callable[..., Array]:
        """A function that runs a layer on the rows of a batch; arguments as of `encode`, and what all layers read."""
        single = self.config.stacked_layers == 1

        @jax.named_scope("layer")
        def run_layer(
            x: Float[Array, "B S D"],
            inputs: tuple[Params, dict[str, jax.Array], jax.Array],
            known: Mapping[str, Any],
            graph: nnx.GraphDef[Any],
            first: int | None = None,
            chosen: Chosen | None = None,
        ) -> Float[Array, "B Q D"]:
            layer_params, traits, index = inputs
            if self._shares_layers:
                place = (
                    0 if single else layer_params
                )  # an index that is known has no gradient of a whole stack
                layer_params = jax.tree.map(lambda stacked: jnp.asarray(stacked)[place], layers)
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
            return nnx.merge(graph, layer_params)(
                *(x, segments, positions, key, first),
                **{"causal": causal, "chosen": chosen, **traits, **known, **shared},
            )

        return run_layer

    @property
    def _shares_layers(self) -> bool:
        """Whether several layers have the same params. Then the loop runs over their places in the stack."""
        return self.config.stacked_layers < self.config.num_hidden_layers

    def _split(self, layers: Params, order: "_Order") -> tuple[list[Any], list[Any], list[Any]]:
        """The layers before, in and after the loop, as `_split_layers`, with their traits and their numbers."""
        traits = self.config.family.parts.layer.traits(self.config)
        scanned = {name: jnp.asarray(values) for name, values in traits.items() if name not in order.kinds[0]}
        numbers = jnp.arange(self.config.num_hidden_layers)
        own: Any = jnp.array(self.config.layer_sources) if self._shares_layers else layers
        return _split_layers((own, scanned, numbers), order.before, order.looped, order.turn)

    def _looped(
        self, run_layer: Callable[..., Array], x: Float[Array, "B S D"], turns: list[Any], order: "_Order"
    ) -> Float[Array, "B S D"]:
        """Run the layers of the loop."""
        if not order.looped:
            return x
        graph = self.layer if order.iterations > 1 else self.outside

        def run_turn(x: Float[Array, "B S D"], inputs: list[Any]) -> tuple[jax.Array, None]:
            for layer, known in zip(inputs, order.kinds[order.before :]):
                run = functools.partial(run_layer, known=known, graph=graph)
                x = recomputation.of_layer(self.config.remat, run)(x, layer)
            return x, None

        return jax.lax.scan(run_turn, x, turns, unroll=order.at_once)[0]


@dataclass(frozen=True)
class _Order:
    """How layers run. Layers of several kinds take turns, and a loop runs whole turns; the others follow one by one.

    So do turns that would be left over where an iteration runs several.
    """

    kinds: Sequence[Mapping[str, Any]]
    """What the program knows of each layer: its kind."""
    turn: int
    """Layers of a turn."""
    at_once: int
    """Turns of an iteration."""
    iterations: int
    before: int
    """Layers that run before the loop."""

    @property
    def looped(self) -> int:
        """Layers of the loop."""
        return self.iterations * self.at_once * self.turn

    @classmethod
    def of(cls, kinds: Sequence[Mapping[str, Any]], most: int, unrolled: int, before: int = 0) -> "_Order":
        """Make it.

        Args:
          kinds: the kind of each layer.
          most: layers that a loop may run.
          unrolled: layers of an iteration, if there are so many.
          before: layers that run before the loop.
        """
        turns = kinds[before:] or kinds
        turn = next(turn for turn in range(1, len(turns) + 1) if turns[turn:] == turns[:-turn])
        at_once = max(min(unrolled // turn, most // turn), 1)
        return cls(kinds, turn, at_once, most // turn // at_once, before)


@jax.named_scope("predicted_positions")
def _gather(x: Float[Array, "B S D"], places: Int[Array, "B K"]) -> Float[Array, "B K D"]:
    return jnp.take_along_axis(x, places[:, :, None], axis=1)


@jax.named_scope("layer_stack")
def _split_layers(
    stacked: Any, before: int, looped: int, turn: int
) -> tuple[list[Any], list[Any], list[Any]]:
    """Split stacked layers [L, ...]. The gradient of a split is a concatenation; that of an index pads each layer to L.

    Args:
      stacked: a tree of arrays with a leading axis L.
      before: layers before the loop.
      looped: layers of the loop.
      turn: layers of a turn, a divisor of `looped`.

    Returns:
      The layers before the loop; for each place in a turn, the layers of that place, stacked [looped / turn, ...]; and
      the layers after the loop.
    """
    leaves, tree = jax.tree.flatten(stacked)
    layers = leaves[0].shape[0]
    sizes = (*[1] * before, looped, *[1] * (layers - before - looped))
    parts = [jax.lax.split(leaf, sizes) for leaf in leaves]
    begin = [[one[0] for one in part[:before]] for part in parts]
    turns = [[part[before]] if turn == 1 else _places(part[before], turn) for part in parts]
    rest = [[one[0] for one in part[before + 1 :]] for part in parts]
    return (
        [jax.tree.unflatten(tree, layer) for layer in zip(*begin)],
        [jax.tree.unflatten(tree, place) for place in zip(*turns)],
        [jax.tree.unflatten(tree, layer) for layer in zip(*rest)],
    )


def _places(layers: Array, turn: int) -> list[Array]:
    """Split stacked layers [L, ...] into those of each place in a turn, [L / turn, ...]."""
    turns = layers.reshape(layers.shape[0] // turn, turn, *layers.shape[1:])
    return [place[:, 0] for place in jax.lax.split(turns, [1] * turn, axis=1)]


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
      UserError: an attention kernel or a policy of recomputation that cannot run here.
    """
    recomputation.check(config.remat, platform or jax.default_backend())
    if use.causal and config.convolves:
        raise UserError(
            "config.objective.name=clm: the convolution of this model (conv_kernel_size of its config.json) reads the "
            "next token; set config.objective.name=mlm"
        )
    kernel = attention.choose(config.attention, attention.Needs.of(config, dtype, platform, use))
    config = dataclasses.replace(config, attention=kernel.name, scan_unroll=_unroll(config, platform))
    graphs = {part: nnx.split(module)[0] for part, module in _modules(config).items()}
    outside = nnx.split(_modules(dataclasses.replace(config, scan_unroll=0))["layers"])[0]
    return Encoder(
        *(config, dtype, graphs["embeddings"], graphs["layers"], outside),
        *(graphs.get("final"), graphs.get("shared"), kernel),
    )


def _unroll(config: EncoderConfig, platform: str | None) -> int:
    """The layers unrolled in each iteration of the loop over them; 0 is all.

    A TPU spends a fifth of its time on stacking what a loop saves for the backward pass.
    """
    layers = config.num_hidden_layers
    unroll = config.scan_unroll
    if unroll is None:
        unroll = 0 if (platform or jax.default_backend()) == "tpu" and layers <= MOST_UNROLLED else 1
    if 0 < unroll < layers:
        return unroll
    return 1 if recomputation.keeps_loop(config.remat) else 0


@functools.lru_cache(maxsize=32)  # every tree of shapes, axes and names is made of them
def _modules(config: EncoderConfig) -> dict[str, nnx.Module]:
    parts = config.family.parts
    makers: dict[str, Maker] = {"embeddings": parts.embeddings, "layers": parts.layer}
    if parts.final:
        makers["final"] = parts.final
    if parts.shared:
        makers["shared"] = parts.shared

    def maker(make: Maker) -> Callable[[], nnx.Module]:
        return lambda: make(nnx.Rngs(0), config)

    return module_shapes.abstract({part: maker(make) for part, make in makers.items()})
