"""What ModernBERT's config.json says of each layer, in its present form and in that of older releases."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from base.errors import UserError
from pretrain.models.config import EncoderConfig, OwnFields
from pretrain.models.layers import ACTIVATIONS

DEFAULTS: Mapping[str, Any] = {
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "embedding_dropout": 0.0,
    "mlp_dropout": 0.0,
    "decoder_bias": True,
    "classifier_bias": False,
    "classifier_activation": "gelu",
    "classifier_pooling": "cls",
    "classifier_dropout": 0.0,
    "cls_token_id": 50281,
    "sep_token_id": 50282,
    "initializer_cutoff_factor": 2.0,
    "local_attention": 128,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160_000.0,
    "local_rope_theta": 10_000.0,
}
"""Fields besides those that all families have, with what it means to leave one out."""

GLOBAL, LOCAL = "full_attention", "sliding_attention"
"""Kinds of layers."""
_THETAS = {GLOBAL: "global_rope_theta", LOCAL: "local_rope_theta"}


@dataclass(frozen=True)
class ModernBertFields(OwnFields):
    """What only ModernBERT's config.json has; named as there."""

    layer_types: tuple[str, ...]
    """The kind of each layer."""
    global_attn_every_n_layers: int | None
    """Every n-th layer, from the first, is global; None if the kinds of the layers do not follow this rule."""
    local_attention: int
    """How many tokens a local layer sees: half as many to each side."""
    global_rope_theta: float
    """The base of the rotary embedding in global layers."""
    local_rope_theta: float
    """The same of local layers."""
    norm_bias: bool
    attention_bias: bool
    mlp_bias: bool
    embedding_dropout: float
    mlp_dropout: float
    decoder_bias: bool
    classifier_bias: bool
    """Whether the first map of a head has a bias, also of the masked-language-model head."""
    classifier_activation: str
    """The activation after the first map of a head, also of the masked-language-model head."""
    classifier_pooling: str
    classifier_dropout: float
    cls_token_id: int | None
    sep_token_id: int | None
    initializer_cutoff_factor: float

    def with_layers(self, layers: int) -> Self:
        """The fields of a network of so many layers: the first ones, or more of them in the same order."""
        every = self.global_attn_every_n_layers
        if layers <= len(self.layer_types):
            return dataclasses.replace(self, layer_types=self.layer_types[:layers])
        if every is None:
            raise UserError(
                f"num_hidden_layers={layers} should be {len(self.layer_types)}: the global layers of init_from follow "
                "no rule by which there could be more"
            )
        return dataclasses.replace(self, layer_types=tuple(_periodic(layers, every)))

    @property
    def windows(self) -> tuple[int, ...]:
        """For each layer, how far from itself a token sees, to both sides; 0 is the whole document."""
        half = self.local_attention // 2
        return tuple(half if kind == LOCAL else 0 for kind in self.layer_types)

    @property
    def thetas(self) -> tuple[float, ...]:
        """For each layer, the base of its rotary embedding's wavelengths."""
        thetas = {GLOBAL: self.global_rope_theta, LOCAL: self.local_rope_theta}
        return tuple(thetas[kind] for kind in self.layer_types)

    @property
    def is_gated(self) -> bool:
        """The feed-forward layers have a gate."""
        return True


def own_fields(config: EncoderConfig) -> ModernBertFields:
    """What only a ModernBERT has."""
    assert isinstance(config.own, ModernBertFields)
    return config.own


def with_own_fields(fields: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of an EncoderConfig, in which what only ModernBERT has is one field, `own`.

    Args:
      fields: the values of all fields that have a default.
      values: contents of the config.json.

    Raises:
      UserError: kinds of layers, a rotation or an activation that are not known; two fields that do not fit each other.
    """
    kinds = _kinds(fields, values)
    thetas = {name: _theta(kind, fields, values) for kind, name in _THETAS.items()}
    half = fields["local_attention"] // 2
    head_width = fields["hidden_size"] // max(fields["num_attention_heads"], 1)
    for name, only in (("sliding_window", half), ("head_dim", head_width)):
        if values.get(name) not in (None, only):
            raise UserError(f"{name}={values[name]!r}, but by its other fields it is {only}")
    if half < 1:
        raise UserError(f"local_attention={fields['local_attention']} should be 2 or more")
    if fields["classifier_activation"] not in ACTIVATIONS:
        raise UserError(
            f"classifier_activation={fields['classifier_activation']!r}; known are {', '.join(ACTIVATIONS)}"
        )
    names = {field.name for field in dataclasses.fields(ModernBertFields)} & set(DEFAULTS)
    made = {"layer_types": tuple(kinds), "global_attn_every_n_layers": _every(kinds, fields)}
    own = ModernBertFields(**{**{name: fields[name] for name in names}, **made, **thetas})
    shared = {name: value for name, value in fields.items() if name not in DEFAULTS}
    return {**shared, "own": own}


def written(config: EncoderConfig) -> dict[str, Any]:
    """What config.json says besides the fields that families share.

    Layers are described in the present form and, where it can, in that of releases before transformers 5.
    """
    own = own_fields(config)
    ids = ("cls_token_id", "sep_token_id", "global_attn_every_n_layers")
    values = {name: getattr(own, name) for name in DEFAULTS}
    thetas = {kind: getattr(own, name) for kind, name in _THETAS.items()}
    return {
        **{name: value for name, value in values.items() if value is not None or name not in ids},
        "layer_types": list(own.layer_types),
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()
        },
    }


def _kinds(fields: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """The kind of each layer: as listed, or every n-th layer is global, from the first."""
    layers, every = fields["num_hidden_layers"], fields["global_attn_every_n_layers"]
    kinds = values.get("layer_types")
    if kinds is None:
        if every < 1:
            raise UserError(f"global_attn_every_n_layers={every} should be 1 or more")
        return _periodic(layers, every)
    if (
        not isinstance(kinds, list)
        or len(kinds) != layers
        or any(kind not in (GLOBAL, LOCAL) for kind in kinds)
    ):
        raise UserError(f"layer_types={kinds!r} should be a list of {layers} times {GLOBAL!r} or {LOCAL!r}")
    return kinds


def _periodic(layers: int, every: int) -> list[str]:
    return [LOCAL if index % every else GLOBAL for index in range(layers)]


def _every(kinds: list[str], fields: Mapping[str, Any]) -> int | None:
    """The period of the global layers: the one that is given, or the least that fits; None where none does."""
    periods = (max(fields["global_attn_every_n_layers"], 1), *range(1, len(kinds) + 1))
    return next((every for every in periods if _periodic(len(kinds), every) == kinds), None)


def _theta(kind: str, fields: Mapping[str, Any], values: Mapping[str, Any]) -> float:
    """The base of the rotary embedding in layers of a kind."""
    rope = _mapping(values.get("rope_parameters"), "rope_parameters").get(kind)
    rope, scaling = _mapping(rope, "rope_parameters"), _mapping(values.get("rope_scaling"), "rope_scaling")
    for name, value in (("rope_parameters", rope), ("rope_scaling", scaling)):
        rope_type = value.get("rope_type", value.get("type", "default"))
        if rope_type != "default":
            raise UserError(f"{name} has rope_type={rope_type!r}; only 'default' is known")
    theta = scaling.get("rope_theta", rope.get("rope_theta", fields[_THETAS[kind]]))
    if not isinstance(theta, int | float) or not 0 < theta < math.inf:
        raise UserError(f"{_THETAS[kind]}={theta!r} should be a number above 0")
    return float(theta)


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    """The value of a field that holds an object; {} where it is left out."""
    if value is not None and not isinstance(value, Mapping):
        raise UserError(f"{name}={value!r} should be an object, such as {{'rope_type': 'default'}}")
    return value or {}
