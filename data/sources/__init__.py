"""Where documents come from: one module per kind of source, opened by `open_source`."""

from collections.abc import Mapping
from typing import Any

from base.errors import UserError
from data import config as data_config
from data.config import SourceConfig
from data.source_protocol import Source
from data.sources.documents import check_filters

READERS = {name: data_config.READERS[name] for name in ("path", "mix")}
"""Fields that locate the text, and the sources that read them. Other sources would ignore these fields."""


def check_fields(config: Any, where: str, readers: Mapping[str, tuple[str, ...]] = READERS) -> None:
    """Refuse a field that is set but that the chosen source does not read.

    Only the fields in `readers` are checked. The default `readers` leave out name, subset and split, so that a recipe
    may keep them when the command line sets another source.

    Args:
      config: the source.
      where: the path of `config` in messages.
      readers: field -> the sources that read it.

    Raises:
      UserError: such a field is set, for example a path with the default source, pydoc.
    """
    for unread in data_config.unread(config.source, readers, where.removeprefix("config.")):
        (path,) = unread.fields
        name = path.rpartition(".")[2]
        value = getattr(config, name, None)
        if value and value != getattr(type(config), name, None):
            shown = f"={value!r}" if isinstance(value, str) else ""
            raise UserError(f"config.{path}{shown} has no effect: {unread.because}")


def open_source(config: SourceConfig, where: str = "config.data") -> Source:
    """Open one source of documents. The members of a mix are opened one by one (see `data.config.leaf_sources`).

    Opening lists files or asks the hub, and looks at the first documents. So a mistake in the config is found here,
    before anything is compiled. `where` is the path of `config` in messages.

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
        case "prepared":
            from data.prepared.source import PreparedSource

            return PreparedSource(config, where)
    raise UserError(
        f"{where}.source={config.source!r} cannot be opened by itself; use pydoc, files, oscar, hub, tfds or prepared"
    )
