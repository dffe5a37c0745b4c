"""What only EuroBERT's config.json has: the rotation, the heads of keys and values, biases."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from base.errors import UserError
from pretrain.models.config import EncoderConfig, OwnFields
from pretrain.models.families import rotary

DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": None,
    "attention_bias": False,
    "mlp_bias": False,
    "mask_token_id": 128002,
    "classifier_pooling": "late",
}
"""Fields besides those that all families have, with what it means to leave one out."""
THETA = 10_000.0
"""The base of the rotary embedding, where it is left out."""


@dataclass(frozen=True)
class EuroBertFields(OwnFields):
    """What only EuroBERT's config.json has; named as there."""

    num_key_value_heads: int
    attention_bias: bool
    mlp_bias: bool
    """Whether the maps of the feed-forward layers have a bias, and the masked-language-model head."""
    mask_token_id: int
    classifier_pooling: str
    rope_theta: float

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_key_value_heads

    @property
    def is_gated(self) -> bool:
        """The feed-forward layers have a gate."""
        return True


def own_fields(config: EncoderConfig) -> EuroBertFields:
    """What only a EuroBERT has."""
    assert isinstance(config.own, EuroBertFields)
    return config.own


def with_own_fields(fields: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of an EncoderConfig, in which what only EuroBERT has is one field, `own`.

    Args:
      fields: the values of all fields that have a default.
      values: contents of the config.json.

    Raises:
      UserError: a rotation that is not known, or heads that do not fit each other.
    """
    rotary.check_head_width(fields, values)
    heads = fields["num_key_value_heads"]
    if heads is not None and heads < 1:
        raise UserError(f"num_key_value_heads={heads} should be 1 or more")
    names = {name: fields[name] for name in DEFAULTS}
    names["num_key_value_heads"] = heads or fields["num_attention_heads"]
    own = EuroBertFields(**names, rope_theta=rotary.theta(values, THETA))
    return {**{name: value for name, value in fields.items() if name not in DEFAULTS}, "own": own}


def written(config: EncoderConfig) -> dict[str, Any]:
    """What config.json says besides the fields that families share."""
    own = own_fields(config)
    values = {name: getattr(own, name) for name in DEFAULTS} | {"num_key_value_heads": config.key_value_heads}
    return {**values, **rotary.written(own.rope_theta)}
