"""What only ALBERT's config.json has: the groups of layers that share their weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from base.errors import UserError
from pretrain.models.config import EncoderConfig, OwnFields

DEFAULTS: Mapping[str, Any] = {"num_hidden_groups": 1, "inner_group_num": 1}
"""Fields besides those that all families have, with what it means to leave one out."""


@dataclass(frozen=True)
class AlbertFields(OwnFields):
    """What only ALBERT's config.json has; named as there."""

    num_hidden_groups: int
    """Groups of layers; the layers of a group have the same weights."""

    def layer_sources(self, layers: int) -> tuple[int, ...]:
        """For each layer, its group."""
        return tuple(int(layer / (layers / self.num_hidden_groups)) for layer in range(layers))


def with_own_fields(fields: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of an EncoderConfig, in which what only ALBERT has is one field, `own`.

    Args:
      fields: the values of all fields that have a default.
      values: contents of the config.json.

    Raises:
      UserError: a number of groups that is none, or groups that repeat several layers.
    """
    groups, layers = fields["num_hidden_groups"], fields["num_hidden_layers"]
    if not 1 <= groups <= max(layers, 1):
        raise UserError(f"num_hidden_groups={groups} should be from 1 to num_hidden_layers={layers}")
    if fields["inner_group_num"] != 1:
        raise UserError(f"inner_group_num={fields['inner_group_num']}; only 1 is known")
    shared = {name: value for name, value in fields.items() if name not in DEFAULTS}
    return {**shared, "own": AlbertFields(groups)}


def written(config: EncoderConfig) -> dict[str, Any]:
    """What config.json says besides the fields that families share."""
    assert isinstance(config.own, AlbertFields)
    return {"num_hidden_groups": config.own.num_hidden_groups, "inner_group_num": 1}
