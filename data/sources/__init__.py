"""Where documents come from: one module per kind of source, opened by `open_source`."""

from data.config import SourceConfig
from data.errors import UserError
from data.source import Source
from data.sources.documents import check_filters


def open_source(config: SourceConfig) -> Source:
    """Open one source of documents; a mix is made of several, each opened by itself (see `data.config.leaf_sources`).

    Opening lists files or asks the hub, and looks at the first documents: what is wrong with the configuration shows
    here, before anything is compiled.

    Raises:
      UserError: the source does not exist, cannot be reached, is empty, or does not have what the config asks for.
    """
    check_filters(config.filters)
    match config.source:
        case "pydoc":
            from data.sources.pydoc import PydocSource

            return PydocSource(config)
        case "files":
            from data.sources.files import FilesSource

            return FilesSource(config)
        case "oscar":
            from data.sources.oscar import OscarSource

            return OscarSource(config)
        case "hub":
            from data.sources.hub import HubSource

            return HubSource(config)
        case "tfds":
            from data.sources.tfds import TfdsSource

            return TfdsSource(config)
    raise UserError(
        f"config.data.source={config.source!r} cannot be opened by itself; use pydoc, files, oscar, hub or tfds"
    )
