"""Self-attention within documents: one function, several kernels that compute the same."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from base.errors import UserError
from pretrain.models.dropout import dropout
from pretrain.models.matrix_products import einsum

CUDNN_DTYPES = ("bfloat16", "float16")


def resolve(
    implementation: str,
    dtype: str,
    dropout_rate: float,
    platform: str | None = None,
    *,
    has_windows: bool = False,
) -> str:
    """The kernel to run for `config.model.attention`: `auto` takes cudnn where it can compute the same, else xla.

    Args:
      implementation: auto, xla or cudnn.
      dtype: the compute type.
      dropout_rate: dropout of attention weights in training, which cudnn's kernel does not have.
      platform: cpu, gpu or tpu; default: the one jax runs on.
      has_windows: whether layers attend within a window, which is computed by xla alone.

    Raises:
      UserError: cudnn was asked for where it cannot run.
    """
    platform = platform or jax.default_backend()
    obstacle = ""
    if platform != "gpu":
        obstacle = f"runs on a GPU, not on {platform}"
    elif dtype not in CUDNN_DTYPES:
        obstacle = f"needs config.dtype=bfloat16, not {dtype}"
    elif dropout_rate > 0:
        obstacle = (
            f"has no dropout of attention weights, which is {dropout_rate}; set it to 0 "
            "(config.model.attention_probs_dropout_prob, when fine-tuning config.model.attention_dropout)"
        )
    elif has_windows:
        obstacle = "has no local windows, which this network's layers have"
    if implementation == "auto":
        return "xla" if obstacle else "cudnn"
    if implementation == "cudnn" and obstacle:
        raise UserError(f"config.model.attention=cudnn {obstacle}; or set config.model.attention=xla")
    return implementation


def attention(
    query: Float[Array, "B Q N H"],
    key: Float[Array, "B S N H"],
    value: Float[Array, "B S N H"],
    segments: Int[Array, "B S"],
    *,
    implementation: str = "xla",
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
    window: Int[Array, ""] | None = None,
    causal: bool = False,
) -> Float[Array, "B Q N H"]:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1) among the tokens of one document.

    A token sees the tokens of its row that have its segment id. Padding (segment 0) so sees padding only: no document
    sees it, and none of its own rows is empty, which is where a softmax would give NaN.

    Args:
      query: heads of the first Q <= S tokens of each row, in the compute type; scores and softmax are float32.
      key, value: heads of all S tokens.
      segments: the document within the row, 0 for padding.
      implementation: xla (the reference) or cudnn (GPU, bfloat16 or float16), as `resolve` gives it. Where Q < S it is
        xla: there is little to do, and cuDNN trains on rows of even length only.
      dropout_rate: dropout of the attention weights (xla only).
      dropout_key: the key of the dropout mask; None drops nothing.
      window: how far from itself a token sees, to both sides (xla only); None is the whole document.
      causal: whether a token sees itself and earlier tokens alone.
    """
    Q, places = query.shape[1], jnp.arange(segments.shape[1])
    visible = segments[:, None, :Q, None] == segments[:, None, None, :]
    if causal:
        visible &= places <= places[:Q, None]
    if implementation == "cudnn" and segments.shape[1] == Q:
        return jax.nn.dot_product_attention(query, key, value, mask=visible, implementation="cudnn")
    if window is not None:
        visible &= jnp.abs(places[:Q, None] - places) <= window
    scale = 1 / math.sqrt(query.shape[-1])
    scores = einsum("BQNH,BSNH->BNQS", query * scale, key, jnp.float32)
    scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    weights = dropout(weights, dropout_rate, dropout_key)
    return einsum("BNQS,BSNH->BQNH", weights, value)
