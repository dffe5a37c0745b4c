"""The fields of config.model that a family has, and their values in a network of the family."""

from collections.abc import Iterator, Mapping
from typing import Any

from base.errors import UserError
from base.schema import Unused
from data.special_tokens import SpecialTokens
from pretrain.config import ModelConfig
from pretrain.models import EncoderConfig, families
from pretrain.models.families.family import Family
from pretrain.models.families.shared_fields import SHARED_DEFAULTS

OWN = (
    "embedding_size",
    "local_attention",
    "global_attn_every_n_layers",
    "global_rope_theta",
    "local_rope_theta",
)
"""Fields of config.model that only some families have; None there is the family's default."""
ROTARY = ("global_rope_theta", "local_rope_theta")
"""Those of them that may differ between the phases of a run. They have no effect on the params' shapes."""
POSITIONS = 514
"""Rows of a new position embedding where config.model does not set them: 512, and two that roberta reserves."""
HIDDEN, ATTENTION = "hidden_dropout_prob", "attention_probs_dropout_prob"


def lacking(family: Family) -> list[str]:
    """The fields of config.model that networks of a family do not have."""
    has = {*family.defaults, *family.own_defaults}
    if family.hidden_dropouts:
        has.add(HIDDEN)
    if family.has_position_table or family.parts.neighbours:
        has.add("position_init")
    return [name for name in (*SHARED_DEFAULTS, "position_init", *OWN) if name not in has]


def unused_fields(model: ModelConfig) -> Iterator[Unused]:
    """The fields of config.model that have no effect, because the network that it describes does not have them."""
    names = tuple(f"model.{name}" for name in lacking(families.get(model.family)))
    because = f"config.model.family={model.family!r} has no such field; unset it, or choose another family"
    yield Unused(names, because, ("model.family",))


def has_own(network: EncoderConfig, name: str) -> bool:
    """Whether a network has a field that only some families have."""
    return hasattr(network.own, name)


def rotary_bases(network: EncoderConfig) -> dict[str, float]:
    """The rotary bases of a network, by field; {} if it has none."""
    return {name: getattr(network.own, name) for name in ROTARY if has_own(network, name)}


def default_dropout(family: Family, name: str) -> float:
    """The rate of dropout that a new network of a family has where config.model does not set it."""
    names = family.hidden_dropouts if name == HIDDEN and family.hidden_dropouts else (name,)
    rates = {**family.defaults, **family.own_defaults}
    return float(max(rates.get(each, 0.0) for each in names))


def drops_nothing(model: ModelConfig) -> bool:
    """Whether the network that config.model describes has no dropout."""
    family, set_to = families.get(model.family), {name: getattr(model, name) for name in (HIDDEN, ATTENTION)}
    return not any(default_dropout(family, name) if rate is None else rate for name, rate in set_to.items())


def config_json(model: ModelConfig, special: Mapping[str, int]) -> dict[str, Any]:
    """The contents of a config.json of the network that config.model describes, without its vocab_size.

    Args:
      model: the config.
      special: ids of the tokenizer's special tokens, by the names of config.json (bos_token_id, ...).
    """
    family = families.get(model.family)
    has = {**family.defaults, **family.own_defaults}
    names = [name for name in (*SHARED_DEFAULTS, *OWN) if name in has and name != "vocab_size"]
    given = {name: getattr(model, name) for name in names}
    if model.max_position_embeddings is None and family.has_position_table:
        given["max_position_embeddings"] = POSITIONS
    if given.get("embedding_size") == 0:
        raise UserError("config.model.embedding_size=0 should be 1 or more, or None for the family's own")
    if family.embeds_as_wide and given["embedding_size"] is None:
        given["embedding_size"] = model.hidden_size
    # A family whose bos and eos ids are None by default has no such tokens.
    ids = {name: index for name, index in special.items() if has.get(name) is not None}
    values = {family.key(name): value for name, value in (given | ids).items() if value is not None}
    return {"model_type": model.family, **family.new, **values}


def special_ids(special: SpecialTokens) -> dict[str, int]:
    """The ids of special tokens by the names of config.json."""
    return {
        "pad_token_id": special.pad,
        **dict.fromkeys(("bos_token_id", "cls_token_id"), special.cls),
        **dict.fromkeys(("eos_token_id", "sep_token_id"), special.sep),
        "mask_token_id": special.mask,
    }


def value(network: EncoderConfig, name: str) -> Any:
    """The value of a field of config.model in a network; None if the network has no such field."""
    if name == "family":
        return network.model_type
    if name in OWN and name in lacking(network.family):
        return None
    return getattr(network, name, getattr(network.own, name, None))
