"""Self-attention within documents: one table of kernels that compute the same, and the choice among them.

`KERNELS` has the capabilities of each kernel. To add a kernel, write its function and its row in the table. Then
`config.model.attention` accepts its name. `auto` takes the first kernel of the table that can run a network.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from base.errors import UserError
from pretrain.models import lean_gradients, recomputation
from pretrain.models.config import EncoderConfig
from pretrain.models.dropout import MOST_BITS, dropout, kept
from pretrain.models.kernels import chunked, gpu, splash
from pretrain.models.kernels.blocks import by_blocks, is_shorter
from pretrain.models.kernels.chunked import in_chunks
from pretrain.models.kernels.sight import Chosen, Compute, Sight, WeightDropout
from pretrain.models.matrix_products import einsum

AUTO = "auto"
DROPOUT_FIELD = "config.model.attention_probs_dropout_prob"
"""Where pretraining sets the dropout of attention weights."""
LONG = 2048
"""Tokens of a row from which `auto` runs attention by chunks."""
SPLASH_FROM = 1024
"""Tokens of a row from which `auto` runs splash attention."""


@dataclass(frozen=True)
class Kernel:
    """A kernel and what it can do."""

    compute: Compute
    platforms: tuple[str, ...] = ("cpu", "gpu", "tpu")
    """Where it runs."""
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16")
    """Its compute types, as `config.dtype` names them; messages name the first."""
    segments: bool = True
    """Whether it keeps the documents of a row apart."""
    windows: bool = True
    """Whether it computes layers that see a window, which may be an array; if not, they run by blocks."""
    relative: bool = False
    """Whether it adds relative positions to the scores (`Sight.bias`)."""
    known_windows: bool = False
    """Whether it computes windows that are known when the program is compiled, and only those."""
    causal: bool = True
    """Whether it can hide later tokens."""
    dropout: bool = True
    """Whether it has dropout of the attention weights."""
    head_multiple: int = 1
    """The width H of a head must be a multiple of this number."""
    widest_head: float = math.inf
    """The largest H."""
    row_multiple: int = 1
    """In training, the number of tokens of a row must be a multiple of this number."""
    some_queries: bool = True
    """Whether the queries may be the first Q < S tokens of each row."""
    auto_from: int = 0
    """`auto` takes it if the longest row has at least so many tokens."""
    scores_up_to: float = 0
    """The longest row whose scores it keeps for the backward pass; `remat=attention` acts up to there."""


def _xla(
    query: Float[Array, "B Q N H"],
    key: Float[Array, "B S N H"],
    value: Float[Array, "B S N H"],
    sight: Sight,
    weight_dropout: WeightDropout,
) -> Float[Array, "B Q N H"]:
    """The reference: scores of all pairs [B, N, Q, S] in float32, written out and left to XLA."""
    scale = 1 / math.sqrt(query.shape[-1])
    scores = einsum("BQNH,BSNH->BNQS", query * scale, key, jnp.float32)
    if sight.bias is not None:
        scores += sight.bias
    scores = jnp.where(sight.mask(query.shape[1]), scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    weights = dropout(weights, weight_dropout.rate, weight_dropout.key, weight_dropout.bits)
    return einsum("BNQS,BSNH->BQNH", weights, value)


def _one_pass(
    query: Float[Array, "B Q N H"],
    key: Float[Array, "B S N H"],
    value: Float[Array, "B S N H"],
    sight: Sight,
    weight_dropout: WeightDropout,
) -> Float[Array, "B Q N H"]:
    """The scores of all pairs as in the reference, read once in each direction: see `lean_gradients.attend`."""
    query, key, value = (jnp.swapaxes(heads, 1, 2) for heads in (query, key, value))
    shape = (*query.shape[:2], key.shape[2], query.shape[2])
    keep, scale = kept(weight_dropout.key, shape, weight_dropout.rate, weight_dropout.bits)
    visible = jnp.swapaxes(sight.mask(query.shape[2]), 2, 3)
    return jnp.swapaxes(lean_gradients.attend(query, key, value, visible, keep, scale, sight.unrolled), 1, 2)


def _dense(
    query: Float[Array, "B Q N H"],
    key: Float[Array, "B S N H"],
    value: Float[Array, "B S N H"],
    sight: Sight,
    weight_dropout: WeightDropout,
) -> Float[Array, "B Q N H"]:
    """All pairs of some queries, by the faster of `_one_pass` and the reference."""
    compute = _one_pass if lean_gradients.are_used(query.dtype) else _xla
    return compute(query, key, value, sight, weight_dropout)


KERNELS: dict[str, Kernel] = {
    "cudnn": Kernel(
        gpu.cudnn,
        platforms=("gpu",),
        dtypes=("bfloat16", "float16"),
        segments=False,
        windows=False,
        dropout=False,
        head_multiple=8,
        widest_head=128,
        row_multiple=2,
        some_queries=False,
    ),
    "triton": Kernel(
        gpu.triton,
        platforms=("gpu",),
        dtypes=("bfloat16", "float16"),
        windows=False,
        dropout=False,
        head_multiple=16,
        widest_head=128,
        row_multiple=gpu.BLOCK,
        some_queries=False,
    ),
    "splash": Kernel(
        splash.attend,
        platforms=("tpu",),
        dtypes=("bfloat16", "float32"),
        windows=False,
        known_windows=True,
        dropout=False,
        head_multiple=64,
        widest_head=256,
        row_multiple=splash.LANES,
        some_queries=False,
        auto_from=SPLASH_FROM,
    ),
    "chunked": Kernel(
        in_chunks(_dense),
        row_multiple=chunked.SMALLEST,
        some_queries=False,
        auto_from=LONG,
        scores_up_to=chunked.CHUNK,
    ),
    "one_pass": Kernel(
        _one_pass, platforms=("tpu",), dtypes=("bfloat16",), windows=False, scores_up_to=math.inf
    ),
    "xla": Kernel(_xla, relative=True, scores_up_to=math.inf),
}
"""Kernels by name, the fastest first; the last can do everything."""


@dataclass(frozen=True)
class Use:
    """A run's requirements for the attention kernel that do not follow from its network."""

    causal: bool = False
    """Whether an objective hides later tokens."""
    row_lengths: tuple[int, ...] = ()
    """The numbers of tokens of its rows; () if they are not known."""
    row_field: str = "config.seq_len"
    """Where they are set."""
    dropout_field: str = DROPOUT_FIELD
    """Where the dropout of attention weights is set."""
    packed: bool = True
    """Whether several documents may share a row, each of which attends to itself alone."""


NOTHING_KNOWN = Use()


@dataclass(frozen=True)
class Needs:
    """The requirements of a network for its kernel."""

    platform: str
    """Where it is to run: cpu, gpu or tpu."""
    dtype: str
    """The compute type."""
    dropout: float
    """The rate of dropout of attention weights in training."""
    head_width: int
    """The width H of a head."""
    windows: bool
    """Whether layers see a window."""
    use: Use = NOTHING_KNOWN
    """What the run asks besides."""
    relative: bool = False
    """Whether relative positions are added to the scores."""

    @classmethod
    def of(
        cls, config: EncoderConfig, dtype: str, platform: str | None = None, use: Use = NOTHING_KNOWN
    ) -> "Needs":
        """The requirements of a network; `platform` is jax's platform by default."""
        return cls(
            platform=platform or jax.default_backend(),
            dtype=dtype,
            dropout=config.attention_probs_dropout_prob,
            head_width=config.head_width,
            windows=any(config.windows),
            use=use,
            relative=config.relative_terms is not None,
        )


@dataclass(frozen=True)
class Choice:
    """The kernel that a network runs."""

    name: str
    refused: Mapping[str, str]
    """Faster kernels of the platform that `auto` could not take, and why: "has no ...", "needs ..."."""
    by_blocks: bool = False
    """Whether the layers that see a window run by blocks instead."""

    def is_given(self, windows: Sequence[int], length: int) -> bool:
        """Whether windows have to be known when the program is compiled, for rows of `length` tokens."""
        if self.by_blocks:
            return any(is_shorter(window, length) for window in windows)
        return any(windows) and KERNELS[self.name].known_windows

    def __str__(self) -> str:
        """In words: `xla, windows by blocks; cudnn needs config.dtype=bfloat16, not float32`."""
        name = self.name + ", windows by blocks" * self.by_blocks
        return "; ".join([name, *(f"{name} {why}" for name, why in self.refused.items())])


def choose(asked: str, needs: Needs) -> Choice:
    """The kernel to run for `config.model.attention`: the one that it names, or the first of the table that can.

    Layers that see a window run by blocks, unless the kernel that is named computes windows.

    Args:
      asked: `auto`, or the name of a kernel.
      needs: what it is to do.

    Raises:
      UserError: there is no such kernel, or it cannot do what is needed.
    """
    if asked != AUTO and asked not in KERNELS:
        raise UserError(f"config.model.attention={asked!r} should be one of {', '.join([AUTO, *KERNELS])}")
    obstacles = {name: _obstacles(kernel, needs) for name, kernel in KERNELS.items()}
    longest = max(needs.use.row_lengths, default=0)
    worthwhile = [name for name, kernel in KERNELS.items() if kernel.auto_from <= longest]
    able = [name for name in worthwhile if not obstacles[name]]
    if asked == AUTO:
        faster = itertools.takewhile(lambda name: name != able[0], worthwhile)
        candidates = [name for name in faster if needs.platform in KERNELS[name].platforms]
        refused = {name: ", and ".join(obstacles[name]) for name in candidates}
        return Choice(able[0], refused, by_blocks=needs.windows and not KERNELS[able[0]].known_windows)
    if obstacles[asked]:
        raise UserError(
            f"config.model.attention={asked} {', and '.join(obstacles[asked])}; "
            f"or set config.model.attention={able[0]}"
        )
    has_windows = KERNELS[asked].windows or KERNELS[asked].known_windows
    return Choice(asked, {}, by_blocks=needs.windows and not has_windows)


def _obstacles(kernel: Kernel, needs: Needs) -> list[str]:
    """The reasons why a kernel cannot be used, as predicates of a sentence that begins with its name; [] if it can."""
    if needs.platform not in kernel.platforms:
        hardware = " and ".join(f"a {each.upper()}" for each in kernel.platforms)
        return [f"runs on {hardware}, not on {needs.platform}"]
    found = []
    if needs.dtype not in kernel.dtypes:
        found.append(f"needs config.dtype={kernel.dtypes[0]}, not {needs.dtype}")
    if needs.dropout > 0 and not kernel.dropout:
        found.append(
            f"has no dropout of attention weights, which is {needs.dropout}: set {needs.use.dropout_field}=0"
        )
    if needs.head_width > kernel.widest_head or needs.head_width % kernel.head_multiple:
        found.append(
            f"takes heads of a multiple of {kernel.head_multiple} up to {kernel.widest_head}, not of "
            f"{needs.head_width}: set config.model.num_attention_heads"
        )
    odd = [length for length in needs.use.row_lengths if length % kernel.row_multiple]
    if odd:
        found.append(
            f"takes rows of a multiple of {kernel.row_multiple} tokens, not of {odd[0]}: set {needs.use.row_field}"
        )
    if needs.relative and not kernel.relative:
        found.append("does not add relative positions to the scores, which the network does")
    if needs.use.causal and not kernel.causal:
        found.append("has no causal attention")
    if needs.use.packed and not kernel.segments:
        found.append("does not keep the documents of a row apart (config.data.packing=documents or best_fit)")
    return found


@jax.named_scope("attention")
def attention(
    query: Float[Array, "B Q N H"],
    key: Float[Array, "B S N H"],
    value: Float[Array, "B S N H"],
    segments: Int[Array, "B S"],
    *,
    implementation: str = "xla",
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    dropout_bits: int = MOST_BITS,
    window: Int[Array, ""] | int | None = None,
    causal: bool = False,
    unrolled: bool = False,
    remat: str = recomputation.NONE,
    chosen: Chosen | None = None,
    bias: Float[Array, "#B N Q S"] | None = None,
) -> Float[Array, "B Q N H"]:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1) among the tokens of one document.

    A token sees the tokens of its row that have its segment id. So padding (segment 0) sees only padding, and no
    document sees padding. Every token sees at least itself, so no softmax runs over nothing, which would give NaN.

    Args:
      query: heads of the first Q <= S tokens of each row, in the compute type; scores and softmax are float32.
      key, value: heads of all S tokens.
      segments: the document within the row, 0 for padding.
      implementation: a kernel of `KERNELS` that `choose` returned. xla replaces a kernel that needs all S queries where
        Q < S, because there is little to compute, and one that cannot divide S, which no training row is.
      dropout_rate: dropout of the attention weights.
      dropout_key: the key of the dropout mask; None drops nothing.
      dropout_bits: random bits for each weight, see `dropout`.
      window: how far from itself a token sees, to both sides; None is the whole document. An int runs by blocks, unless
        the kernel computes known windows itself.
      causal: whether a token sees itself and earlier tokens alone.
      unrolled: whether no loop runs the layers.
      remat: a policy of `pretrain.models.recomputation`. Kernels that keep no scores run as they are.
      chosen: the tokens that ask; None are the first Q of each row.
      bias: what is added to the scaled scores, in float32; for the kernel xla alone.
    """
    kernel, length = KERNELS[implementation], segments.shape[1]
    some = chosen is not None or query.shape[1] < length
    if length % kernel.row_multiple or (some and not kernel.some_queries):
        kernel = KERNELS["xla"]
    if isinstance(window, int) and not kernel.known_windows and chosen is None:
        compute = by_blocks if is_shorter(window, length) else _xla
        kernel = Kernel(compute, scores_up_to=math.inf)
    sight = Sight(segments, window, causal, unrolled, chosen=chosen.places if chosen else None, bias=bias)
    others = sight, WeightDropout(dropout_rate, dropout_key, dropout_bits)

    def attend(query: Array, key: Array, value: Array) -> Array:
        return kernel.compute(query, key, value, *others)

    if length <= kernel.scores_up_to:
        attend = recomputation.of_attention(remat, attend, unrolled=unrolled)
    return attend(query, key, value)
