"""What only NomicBERT's config.json has: the rotation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pretrain.models.config import EncoderConfig, OwnFields
from pretrain.models.families import rotary

THETA = 1000.0
"""The base of the rotary embedding, where it is left out."""


@dataclass(frozen=True)
class NomicBertFields(OwnFields):
    """What only NomicBERT's config.json has; named as there."""

    rope_theta: float

    @property
    def is_gated(self) -> bool:
        """The feed-forward layers have a gate."""
        return True


def own_fields(config: EncoderConfig) -> NomicBertFields:
    """What only a NomicBERT has."""
    assert isinstance(config.own, NomicBertFields)
    return config.own


def with_own_fields(fields: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of an EncoderConfig, in which what only NomicBERT has is one field, `own`.

    Args:
      fields: the values of all fields that have a default.
      values: contents of the config.json.

    Raises:
      UserError: a rotation that is not known, or heads of another width.
    """
    rotary.check_head_width(fields, values)
    return {**fields, "own": NomicBertFields(rotary.theta(values, THETA))}


def written(config: EncoderConfig) -> dict[str, Any]:
    """What config.json says besides the fields that families share."""
    return rotary.written(own_fields(config).rope_theta)
