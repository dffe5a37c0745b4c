"""What only DeBERTa's config.json has: relative positions, the convolution, the form of its heads."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from base.errors import UserError
from pretrain.models.config import EncoderConfig, OwnFields
from pretrain.models.layers import ACTIVATIONS

CONTENT_TO_POSITION, POSITION_TO_CONTENT = "c2p", "p2c"
LARGEST = 10**6
"""Far above the ranges of any network."""
DEFAULTS: Mapping[str, Any] = {
    "relative_attention": False,
    "max_relative_positions": -1,
    "position_buckets": -1,
    "norm_rel_ebd": "none",
    "share_att_key": False,
    "position_biased_input": True,
    "conv_kernel_size": 0,
    "conv_groups": 1,
    "conv_act": "tanh",
    "pooler_dropout": 0.0,
    "pooler_hidden_act": "gelu",
    "legacy": True,
}
"""Fields besides those that all families have, with what it means to leave one out."""
V3: Mapping[str, Any] = {
    "relative_attention": True,
    "max_relative_positions": -1,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": [POSITION_TO_CONTENT, CONTENT_TO_POSITION],
    "position_biased_input": False,
}
"""Those of DeBERTa-v3, which a new network has."""


@dataclass(frozen=True)
class DebertaFields(OwnFields):
    """What only DeBERTa's config.json has; named as there."""

    relative_attention: bool
    max_relative_positions: int
    position_buckets: int
    norm_rel_ebd: str
    share_att_key: bool
    pos_att_type: tuple[str, ...]
    position_biased_input: bool
    conv_kernel_size: int
    conv_groups: int
    conv_act: str
    pooler_dropout: float
    pooler_hidden_act: str
    legacy: bool
    """Whether the masked-language-model head is that of transformers' first releases, or DeBERTa's own."""
    cls_dropout: float | None

    @property
    def relative_terms(self) -> int | None:
        """From content to position and from position to content, as the network has them."""
        return len(self.pos_att_type) if self.relative_attention else None

    @property
    def convolves(self) -> bool:
        """Whether a convolution of the embeddings is added after the first layer."""
        return self.conv_kernel_size > 0

    @property
    def norms_positions(self) -> bool:
        """Whether the table of relative positions is normalised."""
        return "layer_norm" in [part.strip() for part in self.norm_rel_ebd.lower().split("|")]


def own_fields(config: EncoderConfig) -> DebertaFields:
    """What only a DeBERTa has."""
    assert isinstance(config.own, DebertaFields)
    return config.own


def farthest(config: EncoderConfig) -> int:
    """The largest distance that the network tells apart from larger ones, without buckets."""
    most = own_fields(config).max_relative_positions
    return most if most >= 1 else config.max_position_embeddings


def span(config: EncoderConfig) -> int:
    """Half of the rows of the table of relative positions."""
    buckets = own_fields(config).position_buckets
    return buckets if buckets > 0 else farthest(config)


def with_own_fields(fields: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of an EncoderConfig, in which what only DeBERTa has is one field, `own`.

    Args:
      fields: the values of all fields that have a default.
      values: contents of the config.json.

    Raises:
      UserError: a value that transformers does not have, or fields that do not fit each other.
    """
    own = DebertaFields(
        **{name: fields[name] for name in DEFAULTS},
        pos_att_type=_terms(values.get("pos_att_type")),
        cls_dropout=values.get("cls_dropout"),
    )
    if not isinstance(own.cls_dropout, int | float | None):
        raise UserError(f"cls_dropout={own.cls_dropout!r} should be a number")
    width = fields["hidden_size"]
    embedding = values.get("embedding_size") or width
    if type(embedding) is not int or embedding < 1:
        raise UserError(f"embedding_size={embedding!r} should be a number from 1 on")
    for name, only in (
        ("attention_head_size", width // max(fields["num_attention_heads"], 1)),
        ("pooler_hidden_size", width),
    ):
        if values.get(name) not in (None, only):
            raise UserError(f"{name}={values[name]!r}, but by its other fields it is {only}")
    _check(own, width)
    if not own.legacy and not (fields["tie_word_embeddings"] and embedding == width):
        raise UserError("legacy=False needs tie_word_embeddings=True and embeddings as wide as hidden_size")
    shared = {name: value for name, value in fields.items() if name not in DEFAULTS}
    return {**shared, "embedding_size": 0 if embedding == width else embedding, "own": own}


def _check(own: DebertaFields, width: int) -> None:
    for name in ("conv_act", "pooler_hidden_act"):
        if getattr(own, name) not in ACTIVATIONS:
            raise UserError(f"{name}={getattr(own, name)!r}; known are {', '.join(ACTIVATIONS)}")
    if own.conv_kernel_size > 0 and own.conv_kernel_size % 2 == 0:
        raise UserError(f"conv_kernel_size={own.conv_kernel_size} should be odd, or 0 for no convolution")
    if own.conv_groups < 1 or width % own.conv_groups:
        raise UserError(f"conv_groups={own.conv_groups} should divide hidden_size={width}")
    for name in ("position_buckets", "max_relative_positions", "conv_kernel_size"):
        if getattr(own, name) > LARGEST:
            raise UserError(f"{name}={getattr(own, name)} should be {LARGEST:,} or less")
    if 0 < own.position_buckets < 4:
        raise UserError(f"position_buckets={own.position_buckets} should be 4 or more, or -1 for none")


def _terms(value: Any) -> tuple[str, ...]:
    """The relative terms of a score: a list, or a text with | between them."""
    listed = [part.strip() for part in value.lower().split("|")] if isinstance(value, str) else value or []
    known = (CONTENT_TO_POSITION, POSITION_TO_CONTENT)
    if not isinstance(listed, list) or any(part not in ("", "none", *known) for part in listed):
        raise UserError(f"pos_att_type={value!r} should be a list of {' and '.join(known)}")
    return tuple(part for part in dict.fromkeys(listed) if part in known)


def written(config: EncoderConfig) -> dict[str, Any]:
    """What config.json says besides the fields that families share."""
    values = dataclasses.asdict(own_fields(config))
    values["pos_att_type"] = list(values["pos_att_type"])
    if values["cls_dropout"] is None:
        del values["cls_dropout"]
    width = {"embedding_size": config.embedding_size} if config.embedding_size else {}
    return {**values, **width, "pooler_hidden_size": config.hidden_size}
