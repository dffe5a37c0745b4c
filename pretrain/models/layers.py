"""The parts that encoders are built of. A parameter is declared once: its shape, start, layout and weight decay.

Modules are Flax NNX descriptions; `pretrain.models.module_shapes` splits them into a graph and a pure dict of arrays.
The metadata `axes` has a parameter's logical axes (see the table in `pretrain.devices.mesh`). `decay` is whether weight
decay applies to it. `inputs` is the number of leading input axes of a linear map's kernel (0: no linear map).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from pretrain.devices.mesh import gathered
from pretrain.models import lean_gradients
from pretrain.models.matrix_products import einsum, platform

Axes = tuple[str | None, ...]


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The exact GELU, x * Phi(x), by erf as PyTorch has it; jax.nn.gelu takes erfc, which costs more."""
    return x * (0.5 * (1.0 + jax.lax.erf(x * 2**-0.5)))


def _gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.gelu(x, approximate=True)


# transformers' names of hidden_act
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


@jax.named_scope("activation")
def activate(x: Float[Array, "..."], name: str, *, unrolled: bool = False) -> Float[Array, "..."]:
    """Apply an activation of `ACTIVATIONS`; `unrolled`: see `lean_gradients.gelu`."""
    if name == "gelu" and lean_gradients.are_used(x.dtype):
        return lean_gradients.gelu(x, unrolled)
    return ACTIVATIONS[name](x)


def normal(
    rngs: nnx.Rngs,
    shape: tuple[int, ...],
    stddev: float,
    axes: Axes,
    *,
    cutoff: float | None = None,
    inputs: int = 0,
    used: int | None = None,
) -> nnx.Param[jax.Array]:
    """A parameter that starts normally distributed and decays: kernels and embeddings.

    Args:
      rngs: its key.
      shape: its shape.
      stddev: of the distribution, before anything is cut off.
      axes: its logical axes.
      cutoff: standard deviations beyond which nothing is drawn; None cuts nothing off.
      inputs: of a kernel, the leading axes that are mapped.
      used: number of rows that are used; the rows after them are 0. None uses all rows.
    """
    if cutoff is None:
        drawn = jax.random.normal(rngs.params(), shape, jnp.float32)
    else:
        drawn = jax.random.truncated_normal(rngs.params(), -cutoff, cutoff, shape, jnp.float32)
    if used is not None and used < shape[0]:
        # Unused rows are drawn and set to 0. So each device draws its own shard, and the used rows have the values that
        # they have without padding.
        drawn = jnp.where((jnp.arange(shape[0]) < used)[:, None], drawn, 0.0)
    return nnx.Param(stddev * drawn, axes=axes, decay=True, inputs=inputs)


def constant(value: float, shape: tuple[int, ...], axes: Axes) -> nnx.Param[jax.Array]:
    """A parameter that starts at one value and does not decay: biases and layer norms."""
    return nnx.Param(jnp.full(shape, value, jnp.float32), axes=axes, decay=False, inputs=0)


class Linear(nnx.Module):
    """An affine map from the last axes of an activation to others, such as [B, S, D] to [B, S, N, H]."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        inputs: dict[str, int],
        outputs: dict[str, int],
        axes: Axes,
        stddev: float,
        *,
        bias: bool = True,
        cutoff: float | None = None,
    ):
        """Declare kernel [*inputs, *outputs] and bias [*outputs].

        Args:
          rngs: the key of the kernel.
          inputs: letters and sizes of the axes that are mapped, {"D": 768}.
          outputs: those they are mapped to, {"N": 12, "H": 64}.
          axes: logical axes of the kernel; the bias takes those of the outputs, except that model width is not split.
          stddev: of the kernel's start; the bias starts at 0.
          bias: whether there is one.
          cutoff: standard deviations beyond which the kernel's start is cut off.
        """
        self.inputs, self.outputs = tuple(inputs.values()), tuple(outputs.values())
        self.axes = axes
        # By the last logical axes, `embed_to_heads` say: profiles and `pretrain.plan` show it.
        read, made = (
            next(filter(None, reversed(part)), "width") for part in (axes[: len(inputs)], axes[len(inputs) :])
        )
        self.scope = f"{read}_to_{made}"
        self.kernel = normal(
            rngs, (*self.inputs, *self.outputs), stddev, axes, cutoff=cutoff, inputs=len(inputs)
        )
        if bias:
            bias_axes = tuple(None if name == "embed" else name for name in axes[len(inputs) :])
            self.bias = constant(0.0, self.outputs, bias_axes)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Apply the map in the activation's type.

        The kernel is reshaped to two axes, because XLA would transpose the gradient of a kernel with more axes.
        """
        with jax.named_scope(self.scope):
            return self._map(x)

    def _kernel(self, dtype: jnp.dtype) -> Float[Array, "..."]:
        """The kernel in a compute type, whole as a layer needs it."""
        kernel = self.kernel[...].astype(dtype)
        if lean_gradients.are_used(dtype):
            kernel = lean_gradients.cast_once(kernel)
        return gathered(kernel, self.axes)

    def _map(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        rows = x.shape[: x.ndim - len(self.inputs)]
        width, out = math.prod(self.inputs), math.prod(self.outputs)
        kernel = self._kernel(x.dtype).reshape(width, out)
        letters = "STUVWXYZ"[: len(rows)]
        y = einsum(f"{letters}D,DF->{letters}F", x.reshape(*rows, width), kernel)
        y = y.reshape(*rows, *self.outputs)
        # Added in float32, so that its gradient is summed in float32: a sum in bfloat16 takes a CPU ten times as long.
        return (y + self.bias[...]).astype(x.dtype) if hasattr(self, "bias") else y

    def parts(
        self, x: Float[Array, "B S D"], since: int = 0, until: int | None = None
    ) -> list[Float[Array, "B S ..."]]:
        """The result along its first output axis: query, key and value, say, or some of them.

        On a TPU in a short type, each part is a product of its own. The gradient of a slice would be padded to the
        whole result and added. So it is where only some parts are wanted.
        """
        wanted = range(self.outputs[0])[since:until]
        if len(wanted) == self.outputs[0] and not lean_gradients.are_used(x.dtype):
            y = self(x)
            return lean_gradients.unstack(y) if platform() == "cpu" else [y[:, :, part] for part in wanted]
        with jax.named_scope(self.scope):
            kernel = self._kernel(x.dtype)
            bias = self.bias[...] if hasattr(self, "bias") else None
            results = []
            for part in wanted:
                flat = kernel[:, part].reshape(x.shape[-1], -1)
                y = einsum("STD,DF->STF", x, flat).reshape(*x.shape[:-1], *self.outputs[1:])
                results.append(y if bias is None else (y + bias[part]).astype(x.dtype))
        return results


def look_up(table: Float[Array, "V E"], tokens: Int[Array, "B S"]) -> Float[Array, "B S E"]:
    """The rows of a word table in its layout for use (`gathered`); it may have been rounded for the head too."""
    if lean_gradients.are_used(table.dtype):
        return lean_gradients.look_up(table, tokens)
    return gathered(table, ("vocab", "embed"))[tokens]


class LayerNorm(nnx.Module):
    """Layer normalisation over the model width (Ba et al. 2016), computed in float32."""

    def __init__(self, width: int, eps: float, *, bias: bool = True):
        self.eps = eps
        self.scale = constant(1.0, (width,), ("norm",))
        if bias:
            self.bias = constant(0.0, (width,), ("norm",))

    @jax.named_scope("norm")
    def __call__(self, x: Float[Array, "B S D"], dtype: jnp.dtype | None = None) -> Float[Array, "B S D"]:
        """Normalise the last axis; the result has the type `dtype`, or that of `x`."""
        bias = self.bias[...] if hasattr(self, "bias") else None
        dtype = dtype or x.dtype
        if lean_gradients.are_used(dtype):
            return lean_gradients.layer_norm(x, self.scale[...], bias, self.eps, dtype)
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        y = y * self.scale[...]
        return (y if bias is None else y + bias).astype(dtype)


class RMSNorm(nnx.Module):
    """Normalisation by the root mean square over the model width (Zhang and Sennrich 2019), computed in float32."""

    def __init__(self, width: int, eps: float):
        self.eps = eps
        self.scale = constant(1.0, (width,), ("norm",))

    @jax.named_scope("norm")
    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """Normalise the last axis; the result has the type of `x`."""
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        return (y * self.scale[...]).astype(x.dtype)
