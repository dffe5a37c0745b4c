"""A larger network that starts from a smaller one of its family: layers are repeated, and widths are tiled.

This is how ModernBERT-large started from ModernBERT-base (Warner et al. 2024, arXiv:2412.13663, section 2.2).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from base.errors import UserError
from pretrain.models.config import EncoderConfig
from pretrain.models.model import build
from pretrain.models.module_shapes import LAYERS, Params

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
"""The fields in which the larger network may differ."""


def enlarged(network: EncoderConfig, sizes: Mapping[str, int]) -> EncoderConfig:
    """The network with other sizes.

    Args:
      network: the smaller network.
      sizes: the value of each field of `SIZES`.

    Raises:
      UserError: a size, or the width of a head, is smaller than the network's; the message begins with the field's
        name.
    """
    for name in SIZES:
        if sizes[name] < getattr(network, name):
            raise UserError(
                f"{name}={sizes[name]} should be {getattr(network, name)} or more, as in init_from: a network that "
                "starts with config.init_tiled=True can only be larger"
            )
    widths: Any = {name: sizes[name] for name in SIZES if name != "num_hidden_layers"}
    deeper = network.with_layers(sizes["num_hidden_layers"])
    if deeper.own is not None and hasattr(deeper.own, "num_key_value_heads"):
        fields: Any = {"num_key_value_heads": _key_value_heads(network, sizes["num_attention_heads"])}
        widths["own"] = dataclasses.replace(deeper.own, **fields)
    projects = getattr(network.family.parts.embeddings, "always_projects", False)
    if network.embedding_size == network.hidden_size and not projects:
        widths["embedding_size"] = sizes["hidden_size"]  # as wide as the network, so there is no projection
    larger = dataclasses.replace(deeper, **widths)
    if larger.head_width < network.head_width:
        raise UserError(
            f"num_attention_heads={larger.num_attention_heads} should be "
            f"{larger.hidden_size // network.head_width} or less: heads of init_from have a width of "
            f"{network.head_width}, and those of hidden_size={larger.hidden_size} would have {larger.head_width}"
        )
    return larger


def _key_value_heads(network: EncoderConfig, heads: int) -> int:
    """Heads of keys and values of a network with more heads, in which each query keeps the key that it had.

    Raises:
      UserError: there is no such number.
    """
    sharing = network.num_attention_heads // network.key_value_heads
    if heads % sharing or (heads - network.num_attention_heads) // 2 % sharing:
        step = 2 * sharing
        raise UserError(
            f"num_attention_heads={heads} should be {network.num_attention_heads} and a multiple of {step} more: "
            f"{sharing} heads of init_from share a key, and stay together"
        )
    return heads // sharing


def tiled(small: EncoderConfig, params: Params, large: EncoderConfig) -> Params:
    """The params of the larger network, each element of which is an element of the smaller network's.

    Layer i of L' is layer round(i L / L') of L, as in Gopher (Rae et al. 2021, arXiv:2112.11446). An
    axis of n elements is put in the middle of its n', and repeats to both sides. Axes are tiled one by one: heads apart
    from the width of a head, and neither query, key and value nor a layer and its gate are mixed. Where a head is
    rotated, its halves are tiled apart too, because each element of one is rotated with one of the other.

    Args:
      small: the smaller network.
      params: its params, numpy arrays.
      large: the larger network, with as many rows of the vocabulary.
    """
    model = build(dataclasses.replace(large, attention="xla"))
    rotated = large.family.is_rotary

    def enlarge(array: np.ndarray, wanted: jax.ShapeDtypeStruct, names: tuple[str | None, ...]) -> np.ndarray:
        for axis, (before, after) in enumerate(zip(array.shape, wanted.shape, strict=True)):
            if before == after:
                continue
            if names[axis] == LAYERS:
                sources = repeated(before, after)
            elif rotated and axis and names[axis - 1] == "heads":
                half = centred(before // 2, after // 2)
                sources = np.concatenate([half, half + before // 2])
            else:
                sources = centred(before, after)
            array = np.take(array, sources, axis)
        return array

    larger: Params = jax.tree.map(enlarge, params, model.shapes(), model.logical_axes())
    return larger


def repeated(layers: int, wanted: int) -> np.ndarray:
    """The layer of a network of so many layers that each of the `wanted` layers starts from, int [wanted]."""
    return np.minimum(np.rint(np.arange(wanted) * layers / wanted).astype(int), layers - 1)


def centred(length: int, wanted: int) -> np.ndarray:
    """The element of an axis that each element of a longer one starts from, int [wanted]."""
    return (np.arange(wanted) - (wanted - length) // 2) % length
