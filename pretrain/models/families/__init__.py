"""The registry of families: a folder here is a family, and its line in `BUILT_IN` makes it known.

A family's folder has the network, the fields of its config.json, the names of its tensors and its heads, put together
in one `FAMILY` (see `pretrain.models.families.family.Family`). Nothing outside asks for a family by name.
"""

import importlib
from typing import TYPE_CHECKING

from base.errors import UserError

if TYPE_CHECKING:
    from pretrain.models.families.family import Family

BUILT_IN = (
    "roberta",
    "xlm-roberta",
    "camembert",
    "bert",
    "distilbert",
    "electra",
    "modernbert",
    "albert",
    "mpnet",
    "deberta-v2",
    "eurobert",
    "nomic_bert",
)
"""Values of model_type; the folder of each has its name, with _ for -."""

_families: "dict[str, Family]" = {}


def names() -> tuple[str, ...]:
    """The model types that are known."""
    return tuple(dict.fromkeys((*BUILT_IN, *_families)))


def get(model_type: str) -> "Family":
    """The family of a model type.

    Raises:
      UserError: there is none.
    """
    if model_type not in names():
        raise UserError(f"model_type={model_type!r}; known are {', '.join(names())}")
    if model_type not in _families:
        module = importlib.import_module(f"{__name__}.{model_type.replace('-', '_')}")
        _families[model_type] = module.FAMILY
    return _families[model_type]


def register(model_type: str, family: "Family") -> None:
    """Make another family known.

    Raises:
      ValueError: there is one of this model type.
    """
    if model_type in names():
        raise ValueError(f"there is a family of model_type {model_type!r}")
    _families[model_type] = family


def pretrained() -> tuple[str, ...]:
    """The model types that can be pretrained: those that have a masked-language-model head."""
    return tuple(name for name in names() if get(name).head is not None)
