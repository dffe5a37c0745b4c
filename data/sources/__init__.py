"""Where documents come from: one module per kind of source, opened by `open_source`."""

from collections.abc import Mapping
from typing import Any

from base.errors import UserError
from data import config as data_config
from data.config import SourceConfig
from data.source_protocol import Source
from data.sources.documents import check_filters

READERS = {name: data_config.READERS[name] for name in ("path", "mix")}
"""Fields that say where text lies, and the sources that read them; beside another source they would be passed over."""


def check_fields(config: Any, where: str, readers: Mapping[str, tuple[str, ...]] = READERS) -> None:
    """Refuse a field that says where text lies but that the chosen source does not read (`readers` says which do).

    A data set's name, subset and split are left alone: a recipe's stay where its source is overridden by files.

    Raises:
      UserError: there is one, such as a path beside the default source, pydoc.
    """
    for unread in data_config.unread(config.source, readers, where.removeprefix("config.")):
        (path,) = unread.fields
        name = path.rpartition(".")[2]
        value = getattr(config, name, None)
        if value and value != getattr(type(config), name, None):
            shown = f"={value!r}" if isinstance(value, str) else ""
            raise UserError(f"config.{path}{shown} has no effect: {unread.because}")


def open_source(config: SourceConfig, where: str = "config.data") -> Source:
    """Open one source of documents; a mix is made of several, each opened by itself (see `data.config.leaf_sources`).

    Opening lists files or asks the hub, and looks at the first documents: what is wrong with the configuration shows
    here, before anything is compiled. `where` is the place in the run's config that messages name.

    Raises:
      UserError: the source does not exist, cannot be reached, is empty, or does not have what the config asks for.
    """
    check_fields(config, where)
    check_filters(config.filters, where)
    match config.source:
        case "pydoc":
            from data.sources.pydoc import PydocSource

            return PydocSource(config, where)
        case "files":
            from data.sources.files import FilesSource

            return FilesSource(config, where)
        case "oscar":
            from data.sources.oscar import OscarSource

            return OscarSource(config, where)
        case "hub":
            from data.sources.hub import HubSource

            return HubSource(config, where)
        case "tfds":
            from data.sources.tfds import TfdsSource

            return TfdsSource(config, where)
    raise UserError(
        f"{where}.source={config.source!r} cannot be opened by itself; use pydoc, files, oscar, hub or tfds"
    )
