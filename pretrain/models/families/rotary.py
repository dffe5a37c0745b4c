"""Rotary positions, and what EuroBERT and NomicBERT have in common: grouped heads, and gates without biases."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from base.errors import UserError
from pretrain.devices.mesh import constrain
from pretrain.models import lean_gradients
from pretrain.models.attention import attention
from pretrain.models.config import EncoderConfig
from pretrain.models.kernels.sight import Chosen
from pretrain.models.layers import Linear, activate
from pretrain.models.matrix_products import einsum, platform


def theta(values: Mapping[str, Any], default: float) -> float:
    """The base of the rotary embedding by a config.json, in its present form and in that of older releases.

    Raises:
      UserError: a rotation of another type, or a base that is no number.
    """
    given = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise UserError(f"rope_parameters={given!r} should be an object, such as {{'rope_type': 'default'}}")
    kind = given.get("rope_type", given.get("type", "default"))
    if kind != "default" or (given.get("partial_rotary_factor") or 1.0) != 1.0:
        raise UserError(f"rope_parameters={dict(given)!r}; only rope_type='default' of whole heads is known")
    base = given.get("rope_theta", values.get("rope_theta", default))
    if not isinstance(base, int | float) or not 0 < base < math.inf:
        raise UserError(f"rope_theta={base!r} should be a number above 0")
    return float(base)


def written(base: float) -> dict[str, Any]:
    """What config.json says of the rotation."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": base}}


def check_head_width(fields: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Refuse heads that are wider or narrower than their share of the model width.

    Raises:
      UserError: they are.
    """
    width = fields["hidden_size"] // max(fields["num_attention_heads"], 1)
    if values.get("head_dim") not in (None, width):
        raise UserError(f"head_dim={values['head_dim']!r}, but by its other fields it is {width}")


def rotate(x: Float[Array, "B S N H"], angles: Float[Array, "B S H/2"]) -> Float[Array, "B S N H"]:
    """Rotate each pair of components, H/2 apart, by its angle; computed in float32."""
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    if lean_gradients.are_used(x.dtype):
        # A TPU pads halves of a head to whole registers, which takes longer than a product that swaps the halves.
        half = x.shape[-1] // 2
        swap = jnp.kron(jnp.array([[0, 1], [-1, 0]], x.dtype), jnp.eye(half, dtype=x.dtype))
        swapped = einsum("BSNH,HG->BSNG", x, swap, jnp.float32)
        return (x * jnp.tile(cos, 2) + swapped * jnp.tile(sin, 2)).astype(x.dtype)
    if platform() == "cpu":
        # XLA's CPU compiler makes a slow loop of a concatenation, and a fast one of halves in reverse order.
        cos, sin = jax.lax.optimization_barrier((jnp.tile(cos, 2), jnp.concatenate([-sin, sin], axis=-1)))
        halves = x.astype(jnp.float32).reshape(*x.shape[:-1], 2, -1)
        swapped = jnp.flip(halves, axis=-2)
        return (halves.reshape(x.shape) * cos + swapped.reshape(x.shape) * sin).astype(x.dtype)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


class SelfAttention(nnx.Module):
    """Multi-head self-attention with rotated queries and keys; several heads of queries may share keys and values."""

    fused = False
    """Whether query, key and value are one map."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig, base: float, *, bias: bool):
        self.config, self.base = config, base
        D, N, H, std = (
            config.hidden_size,
            config.num_attention_heads,
            config.head_width,
            config.initializer_range,
        )

        def linear(heads: int) -> Linear:
            return Linear(rngs, {"D": D}, {"N": heads, "H": H}, ("embed", "heads", None), std, bias=bias)

        if self.fused:
            shape, axes = {"P": 3, "N": N, "H": H}, ("embed", "matrices", "heads", None)
            self.query_key_value = Linear(rngs, {"D": D}, shape, axes, std, bias=bias)
        else:
            self.query = linear(N)
            self.key, self.value = linear(config.key_value_heads), linear(config.key_value_heads)
        self.output = Linear(rngs, {"N": N, "H": H}, {"D": D}, ("heads", None, "embed"), std, bias=bias)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        segments: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        dropout_key: Key[Array, ""] | None,
        first: int | None,
        causal: bool,
        chosen: Chosen | None = None,
    ) -> Float[Array, "B Q D"]:
        """Attend within each document. Returns the output for the first Q tokens of each row, or the chosen ones."""
        H = self.config.head_width
        frequencies = 1 / np.float32(self.base) ** (np.arange(0, H, 2, dtype=np.float32) / np.float32(H))
        angles = positions[..., None].astype(jnp.float32) * frequencies
        asking, turned = x, angles
        if first is not None:
            asking, turned = x[:, :first], angles[:, :first]
        if chosen is not None:
            asking, turned = chosen.hidden, chosen.of(angles)
        query, key, value = self._heads(asking, x)
        sharing = self.config.num_attention_heads // self.config.key_value_heads
        if sharing > 1:
            key, value = (jnp.repeat(heads, sharing, axis=2) for heads in (key, value))
        query, key, value = (
            constrain(heads, "batch", "seq", "act_heads", None)
            for heads in (rotate(query, turned), rotate(key, angles), value)
        )
        attended = attention(
            query,
            key,
            value,
            segments,
            dropout_key=dropout_key,
            implementation=self.config.attention,
            dropout_rate=self.config.attention_probs_dropout_prob,
            dropout_bits=self.config.dropout_bits,
            causal=causal,
            unrolled=self.config.unrolled,
            remat=self.config.remat,
            chosen=chosen,
        )
        return self.output(constrain(attended, "batch", "seq", "act_heads", None))

    def _heads(self, asking: Float[Array, "B Q D"], x: Float[Array, "B S D"]) -> tuple[Array, Array, Array]:
        """Query, key and value; queries of the tokens that ask."""
        if not self.fused:
            return self.query(asking), self.key(x), self.value(x)
        if asking is x:
            query, key, value = self.query_key_value.parts(x)
        else:
            key, value = self.query_key_value.parts(x, since=1)
            (query,) = self.query_key_value.parts(asking, until=1)
        return query, key, value


class FusedSelfAttention(SelfAttention):
    """The same with one map for query, key and value."""

    fused = True


class FeedForward(nnx.Module):
    """A gated linear unit (Shazeer 2020) and the map back."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig, *, bias: bool):
        self.config = config
        D, F, std = config.hidden_size, config.intermediate_size, config.initializer_range
        self.gate, self.up = (
            Linear(rngs, {"D": D}, {"F": F}, ("embed", "mlp"), std, bias=bias) for _ in range(2)
        )
        self.down = Linear(rngs, {"F": F}, {"D": D}, ("mlp", "embed"), std, bias=bias)

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """Apply the layer."""
        gate, up = (constrain(part(x), "batch", "seq", "act_mlp") for part in (self.gate, self.up))
        return self.down(activate(gate, self.config.hidden_act, unrolled=self.config.unrolled) * up)
