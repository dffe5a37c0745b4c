"""Facts of a network for the start of a run: its attention kernel, its padding, and the axes that are not split."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import jax
from jaxtyping import PyTree

from pretrain.devices.mesh import SPLIT_FURTHER, WholeAxis, of_moments, whole_axes
from pretrain.models import Encoder, EncoderConfig, recomputation
from pretrain.models.attention import KERNELS

MOMENTS = {moments: name for name, moments in SPLIT_FURTHER.items()}
"""The logical axes of moments that are split further than those of their parameters, and these."""
FIELDS = {
    "vocab": "config.model.vocab_multiple",
    "moment_vocab": "config.model.vocab_multiple",
    "embed": "config.model.hidden_size",
    "moment_embed": "config.model.hidden_size",
    "heads": "config.model.num_attention_heads",
    "mlp": "config.model.intermediate_size",
}
"""For each logical axis of a parameter that a mesh may split, the field that sets its length."""
NARROW = "config.model.embedding_size"
"""The field of "embed" where the embeddings are narrower than the layers."""


class Network(Protocol):
    """A model of either stage."""

    @property
    def encoder(self) -> Encoder:
        """Its encoder."""

    def shapes(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The tree of its params with a shape and type at each leaf."""

    def logical_axes(self) -> dict[str, Any]:
        """The same tree with the logical axes of each array."""


def network_facts(
    model: Network, sizes: Mapping[str, int], fields: Mapping[str, str] = FIELDS
) -> dict[str, str]:
    """Facts of a network by their names, in the order to be shown.

    Args:
      model: the network.
      sizes: devices along each axis of the mesh.
      fields: as `FIELDS`; {} for a network whose sizes the run does not set.
    """
    config = model.encoder.config
    whole = "\n".join(_sentence(axis, sizes, config, fields) for axis in _whole(model, sizes))
    facts = {
        "attention": f"{model.encoder.kernel}{_not_recomputed(config)}",
        "vocabulary": _vocabulary(config),
        "not split": whole,
    }
    return {name: text for name, text in facts.items() if text}


def _not_recomputed(config: EncoderConfig) -> str:
    """That a policy leaves attention as it is, where it does."""
    longest = KERNELS[config.attention].scores_up_to
    if config.remat != recomputation.ATTENTION or longest == math.inf:
        return ""
    where = f" in rows of more than {longest:g} tokens" if longest else ""
    return f"; config.model.remat=attention leaves {config.attention} as it is{where}: it keeps no scores"


def _vocabulary(config: EncoderConfig) -> str:
    """How many rows the vocabulary has, where they are more than its tokens."""
    if config.vocab_rows == config.vocab_size:
        return ""
    return (
        f"{config.vocab_size:,} tokens in {config.vocab_rows:,} rows (config.model.vocab_multiple="
        f"{config.vocab_multiple}); the rest is padding, which exports leave out"
    )


def _whole(model: Network, sizes: Mapping[str, int]) -> list[WholeAxis]:
    """The axes of parameters and moments that the mesh would split, or split further, each once."""

    def whole(shape: jax.ShapeDtypeStruct, axes: tuple[str | None, ...]) -> tuple[WholeAxis, ...]:
        if len(axes) == 1:
            return ()  # a bias, whose map has the same axis
        moments = whole_axes(sizes, of_moments(axes), shape.shape) if sizes.get("zero1", 1) > 1 else []
        return (*whole_axes(sizes, axes, shape.shape), *moments)

    found = jax.tree.map(whole, model.shapes(), model.logical_axes())
    leaves = jax.tree.leaves(found, is_leaf=lambda node: isinstance(node, WholeAxis))
    return list(dict.fromkeys(leaves))


def _sentence(
    axis: WholeAxis, sizes: Mapping[str, int], config: EncoderConfig, fields: Mapping[str, str]
) -> str:
    name, whose = (MOMENTS[axis.name], " of the moments") if axis.name in MOMENTS else (axis.name, "")
    narrow = bool(fields) and name == "embed" and axis.length != config.hidden_size
    mesh, split = (
        " x ".join(f"config.mesh.{name}={sizes[name]}" for name in names)
        for names in (axis.mesh_axes, axis.split)
    )
    field = NARROW if narrow else fields.get(axis.name, "the mesh")
    layout = f"split over {split} alone" if split else "whole on every device"
    return f"{name} ({axis.length:,}){whose} is {layout}, since {mesh} does not divide it: change {field}"
