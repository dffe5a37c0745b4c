"""The network of a run that a checkpoint or a config.json gives, and what `config.model` may set beside it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from base.errors import UserError
from base.schema import Unused
from base.set_fields import Given, settled
from pretrain.config import ModelConfig, PretrainConfig
from pretrain.models import EncoderConfig, family_fields

DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")
"""Fields of config.model that may differ from the given network. None takes the network's rate."""
HOW_IT_RUNS = ("attention", "remat", "scan_unroll", "narrow_layers", "dropout_bits")
"""Fields of config.model that no checkpoint has."""
HELD = ("vocab_multiple",)
"""Fields of config.model that set the layout of a run's arrays. They never change, and no config.json has them."""
RANDOM_START = ("position_init", "word_init")
"""Fields of config.model that only a start without `init_from` reads."""
START = ("config_file", "initializer_range", *RANDOM_START)
"""Fields of config.model that only a run's start reads."""
NETWORK = tuple(
    field.name
    for field in dataclasses.fields(ModelConfig)
    if field.name not in (*DROPOUTS, *HOW_IT_RUNS, *HELD, "config_file", *RANDOM_START)
)
"""Fields of config.model that a config.json has too. The config.json decides their values."""


def is_given(config: PretrainConfig | Mapping[str, Any]) -> bool:
    """Whether the network comes from elsewhere than config.model's own fields; also of a config as nested dicts."""
    if isinstance(config, PretrainConfig):
        return bool(config.init_from or config.model.config_file)
    return bool(config.get("init_from") or config["model"].get("config_file"))


def with_network(
    config: PretrainConfig,
    given: Given,
    network: EncoderConfig,
    note: Callable[[str], None],
    *,
    own_tokens: bool = False,
) -> PretrainConfig:
    """The config with the fields of the given network filled in, so that it describes the network that is trained.

    Args:
      config: a config whose network comes from `init_from` or `model.config_file`.
      given: the fields that were set, and where; a start on the command line overrides a field of the recipe.
      network: what that start describes.
      note: told of the recipe's fields that give way.
      own_tokens: whether the run has another vocabulary than the network.

    Raises:
      UserError: a field that is set contradicts the network.
    """
    file, start = config.model.config_file, config.init_from
    source = f"config.model.config_file={file!r}" if file else f"config.init_from={start!r}"
    by = "model.config_file" if file else "init_from"
    names = [name for name in NETWORK if not (own_tokens and name == "vocab_size")]
    theirs: dict[str, Any] = {name: family_fields.value(network, name) for name in names}
    if config.model.family == network.family.runs_as:
        theirs["family"] = config.model.family
    ours = {
        name: getattr(config.model, name)
        for name in theirs
        if name != "vocab_size" or config.model.vocab_size
    }
    unused = [
        Unused(
            (f"model.{name}",),
            f"{source} gives the network, which has {name}={theirs[name]!r}; unset one of the two",
            (by,),
        )
        for name, value in ours.items()
        if value != theirs[name]
    ]
    read = settled(config, given, lambda _: unused, lambda _: None)
    others = [
        f"config.model.{name}={value!r} of the recipe gives way to {theirs[name]!r}"
        for name, value in ours.items()
        if value != theirs[name] and given.level(f"model.{name}")
    ]
    if others:
        note(f"{source} gives the network: {', '.join(others)}")
    return dataclasses.replace(read, model=dataclasses.replace(read.model, **theirs))


def as_begun(network: EncoderConfig, saved: Mapping[str, Any] | None) -> EncoderConfig:
    """The network of a resumed run, without the rotary bases of a phase, which its workdir's model.json may have.

    Args:
      network: what that file describes.
      saved: the `run` item of the run's checkpoint; None for a run that begins.
    """
    before = saved["config"]["model"] if saved is not None else {}
    bases = {name: before[name] for name in family_fields.rotary_bases(network) if before.get(name)}
    return network.with_own(**bases) if bases else network


def dropout(network: EncoderConfig) -> dict[str, float]:
    """The dropout rates of a network, by field. If hidden states have several, hidden_dropout_prob is left out."""
    rates = {DROPOUTS[0]: network.hidden_dropout, DROPOUTS[1]: network.attention_probs_dropout_prob}
    return {name: rate for name, rate in rates.items() if rate is not None}


def resumed(config: PretrainConfig, saved: Mapping[str, Any]) -> PretrainConfig:
    """The config of a resumed run whose network was given, with its dropout rates.

    A rate that has changed in the config is used. A rate that is unchanged or not set is the checkpoint's.

    Args:
      config: the run's config.
      saved: the `run` item of its checkpoint. If it has no rates, they are in the workdir's model.json. If it has no
        "local" either, that run ignored the rates in its config. They count only if they change.

    Raises:
      UserError: a dropout that was set is unset.
    """
    own, counted = saved.get("dropout", {}), "local" in saved
    rates: dict[str, Any] = {}
    for name in DROPOUTS:
        was, now = saved["config"]["model"].get(name), getattr(config.model, name)
        if now is None and was not in (None, OLD_DEFAULT):
            raise UserError(
                f"config.model.{name} was {was!r} and is not set now; set it to what it should be from here on"
            )
        as_before = now is None or was == now
        rates[name] = own.get(name, now if counted else None) if as_before else now
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **rates))


def as_counted(saved: Mapping[str, Any], config: PretrainConfig) -> dict[str, Any]:
    """The config of a checkpoint, without dropout rates that its run ignored and that `config` changes."""
    values = dict(saved["config"])
    if "local" not in saved and is_given(values):
        model = values["model"]
        changed = [name for name in DROPOUTS if model.get(name) != getattr(config.model, name)]
        values["model"] = {**model, **dict.fromkeys(changed)}
    return values


OLD_DEFAULT = 0.1
"""The value of an unset dropout rate in the configs of earlier runs."""


def same_dropout(was: Any, now: Any, *, given: bool, default: float) -> bool:
    """Whether two values of a dropout's field, of a checkpoint and of a config, mean the same.

    Args:
      was: the checkpoint's.
      now: the config's; None is the network's own.
      given: whether the network comes from a checkpoint or a config.json, so that its rate may have any value.
      default: the rate of a new network.
    """
    if (was, now) == (OLD_DEFAULT, None):
        return given or default == OLD_DEFAULT
    return not given and (was, now) == (None, default)
