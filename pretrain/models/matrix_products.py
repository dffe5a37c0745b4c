"""Matrix products of the compute type, which a device adds up in float32.

In float32, on a mesh of one CPU, rows are a single axis of a product: of rows with more axes, XLA would copy the
gradient of the result, transposed, to multiply it for the gradient of the other array.

Products of shorter types are plain einsums on accelerators, which take bfloat16 and round within the product. XLA's CPU
compiler uses such hardware (AMX) for products that give float32 only. It converts the inputs of the others to float32,
which is several times slower. So on a CPU a product of a short type, and both products of its gradient, are asked for
in float32 and rounded after it.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float


def einsum(
    spec: str, x: Float[Array, "..."], y: Float[Array, "..."], dtype: DTypeLike | None = None
) -> Float[Array, "..."]:
    """`jnp.einsum` of two arrays of one type, each letter in two of the three terms; gradients have the arrays' type.

    The mesh (`jax.set_mesh`) says which platform the program is compiled for, which need not be this machine's. Without
    a mesh the choice for short types is made when the program is lowered. On a CPU and without a mesh, types shorter
    than float32 have reverse-mode gradients only, and policies of `jax.checkpoint` see no product.

    Args:
      spec: subscripts, "BSD,DF->BSF".
      x: the first.
      y: the second.
      dtype: of the result; None is that of the arrays.
    """
    assert x.dtype == y.dtype, f"a product of {x.dtype} and {y.dtype}"
    dtype = jnp.dtype(dtype or x.dtype)
    where, is_short = platform(), x.dtype.itemsize < 4
    if is_short and where in ("cpu", None):
        return _short_product(spec, dtype, x, y)
    if is_short and where == "gpu" and dtype != x.dtype:
        return _wide_product(spec, dtype, x, y)
    if not is_short and where == "cpu" and jax.sharding.get_abstract_mesh().size == 1:
        return _with_rows_in_one_axis(spec, dtype, x, y)
    return jnp.einsum(spec, x, y, preferred_element_type=dtype)


def _with_rows_in_one_axis(spec: str, dtype: jnp.dtype, x: Array, y: Array) -> Array:
    """The product with the leading axes that `x` shares with the result, and `y` has not, made one axis."""
    terms, result = spec.split("->")
    first, second = terms.split(",")
    rows = first
    while not result.startswith(rows) or set(rows) & set(second):
        rows = rows[:-1]
    if len(rows) < 2:
        return jnp.einsum(spec, x, y, preferred_element_type=dtype)
    count, letter = len(rows), rows[0]
    flat = f"{letter}{first[count:]},{second}->{letter}{result[count:]}"
    product = jnp.einsum(flat, x.reshape(-1, *x.shape[count:]), y, preferred_element_type=dtype)
    return product.reshape(*x.shape[:count], *product.shape[1:])


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _wide_product(spec: str, dtype: jnp.dtype, x: Array, y: Array) -> Array:
    """A product with a result of a longer type, whose gradient is made of products of the short one.

    JAX's own gradient is a product of float32 and bfloat16. A TPU takes both as they are; on a GPU, XLA makes it a
    product of float32.
    """
    return jnp.einsum(spec, x, y, preferred_element_type=dtype)


@_wide_product.defjvp
def _tangent(
    spec: str, dtype: jnp.dtype, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (x, y), (dx, dy) = primals, tangents
    tangent = jnp.einsum(spec, dx, y) + jnp.einsum(spec, x, dy)
    # An explicit einsum, so that policies of `jax.checkpoint` see the product.
    return jnp.einsum(spec, x, y, preferred_element_type=dtype), tangent.astype(dtype)


def platform() -> str | None:
    """The platform that the program being traced is for; None where no mesh says it."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _short_product(spec: str, dtype: jnp.dtype, x: Array, y: Array) -> Array:
    """The product of arrays of a type shorter than float32."""

    def rounded_after(x: Array, y: Array) -> Array:
        if _is_transposed(spec):
            x, y = x.astype(jnp.float32), y.astype(jnp.float32)
        return jnp.einsum(spec, x, y, preferred_element_type=jnp.float32).astype(dtype)

    def rounded_within(x: Array, y: Array) -> Array:
        return jnp.einsum(spec, x, y, preferred_element_type=dtype)

    if platform() == "cpu":
        return rounded_after(x, y)
    return jax.lax.platform_dependent(x, y, cpu=rounded_after, default=rounded_within)


def _is_transposed(spec: str) -> bool:
    """Whether a product sums over a single letter, and this letter is not the last one of the first term.

    In a whole network, XLA (jaxlib 0.10) turns such products into bfloat16 products that its runtime refuses
    ("Unsupported element type for DotThunk"). It folds a transpose into a product that it has decided to leave alone.
    """
    terms, result = spec.split("->")
    first, second = terms.split(",")
    summed = [letter for letter in first if letter in second and letter not in result]
    return len(summed) == 1 and not first.endswith(summed[0])


def _forward(spec: str, dtype: jnp.dtype, x: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
    return _short_product(spec, dtype, x, y), (x, y)


def _backward(
    spec: str, dtype: jnp.dtype, arrays: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, y = arrays
    terms, result = spec.split("->")
    first, second = terms.split(",")
    gradient = gradient.astype(x.dtype)
    return (
        _short_product(f"{result},{second}->{first}", x.dtype, gradient, y),
        _short_product(f"{first},{result}->{second}", y.dtype, x, gradient),
    )


_short_product.defvjp(_forward, _backward)
