"""Configs of both stages in a program: a recipe, a dict or a config, and what is set on top."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import jax

from base import schema, set_fields
from base.errors import UserError
from base.recipes import settings
from base.schema import Unused
from base.set_fields import Given
from finetune.config import FinetuneConfig
from finetune.unused_fields import unused_fields as unused_in_finetuning
from pretrain.config import PretrainConfig
from pretrain.devices.platforms import leave_out_absent_tpu
from pretrain.runtime import processes, train_command
from pretrain.unused_fields import unused_fields as unused_in_pretraining

C = TypeVar("C")
Source = str | os.PathLike[str] | Mapping[str, Any]
"""A recipe's file (FILE.py or FILE.py:ARGUMENT), or the fields of a config as nested dicts."""
Overrides = Mapping[str, Any]
"""Values by the paths of their fields: {"optimizer.learning_rate": 1e-4}."""
NOTHING: Mapping[str, Any] = MappingProxyType({})


def pretrain_config(
    config: Source | PretrainConfig = NOTHING,
    overrides: Overrides = NOTHING,
) -> PretrainConfig:
    """The config of a pretraining run.

    Args:
      config: a recipe's file, the fields as nested dicts, or a config.
      overrides: values that are set on top, by the paths of their fields.

    Raises:
      UserError: a file that fails, an unknown field, a wrong value, or a field that has no effect.
    """
    return read(PretrainConfig, config, overrides, unused_in_pretraining)[0]


def finetune_config(
    config: Source | FinetuneConfig = NOTHING,
    overrides: Overrides = NOTHING,
) -> FinetuneConfig:
    """The config of a fine-tuning run or a search.

    Args:
      config: a recipe's file, the fields as nested dicts, or a config.
      overrides: values that are set on top, by the paths of their fields.

    Raises:
      UserError: a file that fails, an unknown field, a wrong value, or a field that has no effect.
    """
    return read(FinetuneConfig, config, overrides, unused_in_finetuning)[0]


def read(
    kind: type[C], config: Source | C, overrides: Overrides, unused: Callable[[C], Iterable[Unused]]
) -> tuple[C, Given]:
    """A config, and the fields of it that are set. Notes about fields without effect go to stderr.

    Args:
      kind: the dataclass type of the config.
      config: a recipe's file, the fields as nested dicts, or a config.
      overrides: values that are set on top.
      unused: the fields of a config that would have no effect.

    Raises:
      UserError: the config is wrong.
    """
    source: Any = config
    if isinstance(config, kind):
        source = schema.changed(schema.as_dict(config), schema.as_dict(kind()))
    elif not isinstance(config, str | os.PathLike | Mapping):
        raise UserError(
            f"config is {type(config).__name__}; it should be a recipe's file, a dict of fields, or a {kind.__name__}"
        )
    found, given = settings(kind, source, overrides, unused)
    set_fields.say_all(given)
    return found, given


def prepare(config: FinetuneConfig | PretrainConfig) -> None:
    """Get ready for a run of this config in this process: devices, and the cache of compiled programs.

    Raises:
      UserError: the run is to be one of several processes, which are started by a command.
    """
    if config.distributed or processes.count() > 1:
        raise UserError(
            "a program runs in one process; for several, start python -m pretrain or python -m finetune with "
            "config.distributed=True"
        )
    leave_out_absent_tpu()
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        train_command.use_compilation_cache(config.compilation_cache)


@contextlib.contextmanager
def stopping(workdir: Any) -> Iterator[None]:
    """Say with a KeyboardInterrupt that comes where a run goes on."""
    try:
        yield
    except KeyboardInterrupt as error:
        words = str(error) or "stopped"
        raise KeyboardInterrupt(f"{words}; call the function again to go on in {workdir}") from None
