"""What ModernBERT's config.json says of each layer, in its present form and in that of older releases."""

from collections.abc import Mapping
from typing import Any

from base.errors import UserError
from pretrain.models.config import ModernBertFields

DEFAULTS: Mapping[str, Any] = {
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "embedding_dropout": 0.0,
    "mlp_dropout": 0.0,
    "initializer_cutoff_factor": 2.0,
    "local_attention": 128,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160_000.0,
    "local_rope_theta": 10_000.0,
}
"""Fields besides those that all families have, with what it means to leave one out."""

GLOBAL, LOCAL = "full_attention", "sliding_attention"
"""Kinds of layers."""
_OLD_THETAS = {GLOBAL: "global_rope_theta", LOCAL: "local_rope_theta"}


def with_own_fields(fields: Mapping[str, Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of an EncoderConfig, in which what only ModernBERT has is one field, `modernbert`.

    Args:
      fields: the values of all fields that have a default.
      values: contents of the config.json.
      where: the file, for messages.

    Raises:
      UserError: kinds of layers, or a rotation, that are not known; two fields that do not fit each other.
    """
    kinds = _kinds(fields, values, where)
    thetas = {kind: _theta(kind, fields, values, where) for kind in (GLOBAL, LOCAL)}
    half = fields["local_attention"] // 2
    head_width = fields["hidden_size"] // max(fields["num_attention_heads"], 1)
    for name, only in (("sliding_window", half), ("head_dim", head_width)):
        if values.get(name) not in (None, only):
            raise UserError(f"{where}: {name}={values[name]!r}, but by its other fields it is {only}")
    if half < 1:
        raise UserError(f"{where}: local_attention={fields['local_attention']} should be 2 or more")
    own = ModernBertFields(
        windows=tuple(half if kind == LOCAL else 0 for kind in kinds),
        thetas=tuple(thetas[kind] for kind in kinds),
        norm_bias=fields["norm_bias"],
        attention_bias=fields["attention_bias"],
        mlp_bias=fields["mlp_bias"],
        embedding_dropout=fields["embedding_dropout"],
        mlp_dropout=fields["mlp_dropout"],
        initializer_cutoff_factor=fields["initializer_cutoff_factor"],
    )
    shared = {name: value for name, value in fields.items() if name not in DEFAULTS}
    return {**shared, "modernbert": own}


def _kinds(fields: Mapping[str, Any], values: Mapping[str, Any], where: str) -> list[str]:
    """The kind of each layer: listed, or every so many a global one, from the first."""
    layers, every = fields["num_hidden_layers"], fields["global_attn_every_n_layers"]
    kinds = values.get("layer_types")
    if kinds is None:
        if every < 1:
            raise UserError(f"{where}: global_attn_every_n_layers={every} should be 1 or more")
        return [LOCAL if index % every else GLOBAL for index in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers or not set(kinds) <= {GLOBAL, LOCAL}:
        raise UserError(
            f"{where}: layer_types={kinds!r} should be a list of {layers} times {GLOBAL!r} or {LOCAL!r}"
        )
    return kinds


def _theta(kind: str, fields: Mapping[str, Any], values: Mapping[str, Any], where: str) -> float:
    """The base of the wavelengths that layers of a kind rotate by."""
    rope = (values.get("rope_parameters") or {}).get(kind) or {}
    scaling = values.get("rope_scaling") or {}
    for name, value in (("rope_parameters", rope), ("rope_scaling", scaling)):
        rope_type = value.get("rope_type", value.get("type", "default"))
        if rope_type != "default":
            raise UserError(f"{where}: {name} has rope_type={rope_type!r}; only 'default' is known")
    theta = scaling.get("rope_theta", rope.get("rope_theta", fields[_OLD_THETAS[kind]]))
    if not isinstance(theta, int | float) or theta <= 0:
        raise UserError(f"{where}: rope_theta={theta!r} of {kind} should be a number above 0")
    return float(theta)
