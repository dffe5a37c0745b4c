"""What only MPNet's config.json has: the number of buckets of relative positions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from base.errors import UserError
from pretrain.models.config import EncoderConfig, OwnFields

BUCKETS = 32
"""Ranges of distances that have a bias; transformers' network has so many whatever its config.json says."""
FARTHEST = 128
"""Tokens from which on all distances are in one bucket."""
PADDING = 1
"""The padding token from which transformers' network counts positions, whatever its config.json says."""
DEFAULTS: Mapping[str, Any] = {"relative_attention_num_buckets": BUCKETS}
"""Fields besides those that all families have, with what it means to leave one out."""


@dataclass(frozen=True)
class MPNetFields(OwnFields):
    """What only MPNet has."""

    @property
    def relative_terms(self) -> int | None:
        """A bias is added to a score, and no product."""
        return 0


def with_own_fields(fields: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of an EncoderConfig, with `own`.

    Args:
      fields: the values of all fields that have a default.
      values: contents of the config.json.

    Raises:
      UserError: a value that transformers' network does not have.
    """
    for name, only in (("relative_attention_num_buckets", BUCKETS), ("pad_token_id", PADDING)):
        if fields[name] != only:
            raise UserError(f"{name}={fields[name]!r}; only {only} is known for mpnet")
    shared = {name: value for name, value in fields.items() if name not in DEFAULTS}
    return {**shared, "own": MPNetFields()}


def written(_: EncoderConfig) -> dict[str, Any]:
    """What config.json says besides the fields that families share."""
    return dict(DEFAULTS)
