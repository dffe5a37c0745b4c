"""The home folder, which a container or a batch system may leave unset, and the caches below it."""

import os
import secrets
import tempfile


def has_home() -> bool:
    """Whether `~` is a folder. It is none if HOME is empty, or if HOME is unset and the user is in no list of users."""
    return os.environ.get("HOME") != "" and os.path.expanduser("~") != "~"  # noqa: PTH111 - Path.expanduser raises an error


def cache_folder(folder: str) -> str:
    """The folder of a cache, with `~` replaced; empty (no cache) if it is below a home folder and there is none.

    Otherwise a folder with the name `~` would be made in the working directory.
    """
    path = os.path.expanduser(folder)  # noqa: PTH111
    below_home = folder == "~" or folder.startswith("~/")
    return "" if path.startswith("~") or (below_home and not has_home()) else path


def choose_hub_cache() -> None:
    """Without a home folder, let the hub's client keep its files in the folder for temporary files.

    Call it before huggingface_hub is imported. The name cannot be guessed, and nothing is made until it is used.
    """
    if not has_home() and not {"HF_HOME", "XDG_CACHE_HOME"} & os.environ.keys():
        os.environ["HF_HOME"] = f"{tempfile.gettempdir()}/huggingface-{secrets.token_hex(8)}"
