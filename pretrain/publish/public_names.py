"""The public form of a run's config: ids of the hub as they are, and only the last names of paths.

A name such as `a/b` is an id or a folder. The machine that makes the run decides which of the two it is, and stores
this with the run. Later, or on another machine, the folder may not exist.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from etils import epath

from base import hub_ids, schema
from base.errors import UserError
from base.private_paths import is_place
from data.sources.paths import split_paths
from pretrain.config import CardConfig

PATHS = ("path", "data_dir", "compilation_cache")
"""Fields that hold paths, comma-separated."""
IDS = ("init_from", "tokenizer.path", "model.config_file")
"""Fields that hold an id of the hub, or a path; so does the `name` of a source of kind hub."""

_HOME = re.compile(r"(/home|/Users)/[^/]+|/root|~[^/]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|code|multilingual")
_LICENSE = re.compile(r"[a-z0-9]+([.+-][a-z0-9]+)*")


def hub_id(name: str) -> str:
    """The id of the hub that a name can be, without a revision; '' if it is a path on this machine, or no id."""
    found = hub_ids.parted(name)[0]
    return found if hub_ids.is_id(found) and not epath.Path(name).exists() else ""


def path_names(paths: str) -> str:
    r"""The last names of comma-separated paths, local or in a bucket; `~` of a home folder; `\,` for a name's comma."""
    return ",".join(_last_name(path).replace(",", "\\,") for path in split_paths(paths))


def _last_name(path: str) -> str:
    if "://" in path:
        path = re.split(r"[?#]", path)[0]  # an address may carry a password or a signature
        path = path.rpartition("@")[2]
    path = path.rstrip("/")
    return "~" if _HOME.fullmatch(path) else path.rpartition("/")[2]


def shown_source(source: str) -> str:
    """A model to start from by its hub id, else by the last name of its path."""
    return hub_id(source) or path_names(source)


def local_fields(config: Mapping[str, Any]) -> list[str]:
    """Names ('data.name') of the fields of a config, as nested dicts, that could hold an id and hold a path."""
    flat = schema.flatten(config)
    return [name for name, value in flat.items() if value and _may_be_id(name, flat) and not hub_id(value)]


def hub_datasets(config: Mapping[str, Any], local: Collection[str]) -> set[str]:
    """Ids of the data sets on the hub that a config names; `local` is what `local_fields` gives."""
    flat = schema.flatten(config)
    return {
        str(value)
        for name, value in flat.items()
        if name.endswith("name") and _may_be_id(name, flat) and name not in local and hub_ids.is_id(value)
    }


def published(config: Mapping[str, Any], local: Collection[str]) -> dict[str, Any]:
    """A config, as nested dicts, with every path replaced by its last name; `local` is what `local_fields` gives."""
    flat = schema.flatten(config)

    def shown(value: Any, place: str) -> Any:
        if isinstance(value, Mapping):
            return {name: shown(item, f"{place}.{name}" if place else name) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [shown(item, f"{place}[{index}]") for index, item in enumerate(value)]
        if not isinstance(value, str):
            return value
        if _may_be_id(place, flat):
            return value if place not in local and hub_ids.is_id(value) else path_names(value)
        is_path = place.rpartition(".")[2] in PATHS or is_place(value)
        return path_names(value) if is_path else value

    return {name: shown(value, name) for name, value in config.items()}


def check_card(card: CardConfig, place: str = "config.card.") -> None:
    """Refuse a language or a licence that the hub would not understand.

    Args:
      card: what a model card says besides what is known of the run.
      place: how the settings are written before their names.

    Raises:
      UserError: the language or the licence is not valid.
    """
    wrong = [code for code in languages(card) if not _LANGUAGE.fullmatch(code)]
    if wrong:
        raise UserError(
            f"{place}language={card.language!r}: {wrong[0]!r} is no language code; write codes of ISO 639 such as nb, "
            "or several by commas (no,en)"
        )
    if card.license and not _LICENSE.fullmatch(card.license):
        raise UserError(
            f"{place}license={card.license!r} is no identifier of the hub; write apache-2.0, mit, cc-by-4.0, other, say"
        )


def languages(card: CardConfig) -> list[str]:
    """The codes of the languages."""
    return [code.strip() for code in card.language.split(",") if code.strip()]


def _may_be_id(place: str, flat: Mapping[str, Any]) -> bool:
    group, _, leaf = place.rpartition(".")
    return place in IDS or (leaf == "name" and flat.get(f"{group}.source") == "hub")
