"""Matrix products of the compute type that a device adds up in float32, forwards and backwards.

Types shorter than float32 (bfloat16) have units of their own on most hardware. XLA's CPU compiler uses them (AMX) for
products that give float32, and converts the inputs of those that give bfloat16 to float32, which is several times
slower; so there the product is asked for in float32 and rounded after it. Elsewhere the compiler rounds within it.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float


def einsum(
    spec: str, x: Float[Array, "..."], y: Float[Array, "..."], dtype: DTypeLike | None = None
) -> Float[Array, "..."]:
    """`jnp.einsum` of two arrays of one type, each letter in two of the three terms; gradients have the arrays' type.

    Types shorter than float32 have reverse-mode gradients only, and policies of `jax.checkpoint` see no product.

    Args:
      spec: subscripts, "BSD,DF->BSF".
      x: the first.
      y: the second.
      dtype: of the result; None is that of the arrays.
    """
    assert x.dtype == y.dtype, f"a product of {x.dtype} and {y.dtype}"
    dtype = jnp.dtype(dtype or x.dtype)
    if x.dtype.itemsize >= 4:
        return jnp.einsum(spec, x, y, preferred_element_type=dtype)
    return _short_product(spec, dtype, x, y)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _short_product(spec: str, dtype: jnp.dtype, x: Array, y: Array) -> Array:
    """The product of arrays of a type shorter than float32."""

    def rounded_after(x: Array, y: Array) -> Array:
        if _is_transposed(spec):
            x, y = x.astype(jnp.float32), y.astype(jnp.float32)
        return jnp.einsum(spec, x, y, preferred_element_type=jnp.float32).astype(dtype)

    def rounded_within(x: Array, y: Array) -> Array:
        return jnp.einsum(spec, x, y, preferred_element_type=dtype)

    return jax.lax.platform_dependent(x, y, cpu=rounded_after, default=rounded_within)


def _is_transposed(spec: str) -> bool:
    """Whether the only letter that is summed over is not the first term's last.

    Of such, in a whole network, XLA (jaxlib 0.10) makes products of bfloat16 that its runtime refuses ("Unsupported
    element type for DotThunk"): it folds a transpose into them after it has decided that they may stay as they are.
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
