"""The files of a tokenizer: read from a folder, a bucket or the hub; written all or nothing."""

import functools
import json
import logging
from collections.abc import Mapping
from typing import Any

from etils import epath

from base import hub_errors, hub_ids, private_paths, storage
from base.errors import UserError
from base.hub_patience import patiently, tell
from base.json_files import parsed

logger = logging.getLogger(__name__)

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
MODEL = "config.json"
"""The model's config, in the tokenizer's folder. It sets the tokenizer's class if CONFIG does not."""
OPTIONAL = (CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS, MODEL)


def read_files(path_or_id: str) -> dict[str, bytes]:
    """Read a tokenizer's files: tokenizer.json, and the files of OPTIONAL in the same folder. Returns contents by name.

    Args:
      path_or_id: a folder or a tokenizer.json, local or gs://, or the id of a model on the hub.

    Raises:
      UserError: the path or the model does not exist, or has no tokenizer.json.
    """
    path = epath.Path(path_or_id).expanduser()
    storage.check_readable(path, "config.tokenizer.path")
    if path.is_dir():
        if not (path / TOKENIZER).exists():
            raise UserError(
                f"the folder {path_or_id} has no {TOKENIZER} (a fast tokenizer); "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...) of transformers writes one"
            )
        names = [name for name in (TOKENIZER, *OPTIONAL) if (path / name).exists()]
        return {name: (path / name).read_bytes() for name in names}
    if path.exists():
        return {TOKENIZER: path.read_bytes()}
    if path_or_id.endswith(".json") or not hub_ids.is_id(hub_ids.parted(path_or_id)[0]):
        raise UserError(
            f"there is no tokenizer at {path_or_id}; "
            f"name a folder, a {TOKENIZER} or a hub id (owner/name), in a run as config.tokenizer.path"
        )
    return _download(path_or_id)


def json_object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """The JSON object in a file; {} if the file is missing or is not a JSON object."""
    try:
        value = parsed(files.get(name, b"{}"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def as_json(value: Mapping[str, Any]) -> bytes:
    """The bytes of a JSON file that people read."""
    return (json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()


def _download(hub_id: str) -> dict[str, bytes]:
    from huggingface_hub import _CACHED_NO_EXIST, errors, hf_hub_download, try_to_load_from_cache

    tell(logger, hub_id)
    repository, revision = hub_ids.parted(hub_id)
    at = {} if revision is None else {"revision": revision}
    files: dict[str, bytes] = {}
    for name in (TOKENIZER, *OPTIONAL):
        if not _is_needed(name, files):
            continue
        try:
            got = patiently(functools.partial(hf_hub_download, repository, name, **at))
            files[name] = epath.Path(got).read_bytes()
        except errors.RemoteEntryNotFoundError as error:
            if name == TOKENIZER:
                raise UserError(
                    f"the hub's {hub_id} has no {TOKENIZER} (a fast tokenizer); set config.tokenizer.path"
                ) from error
        except errors.LocalEntryNotFoundError as error:
            # Offline. The cache may know that the model has no such file; the file is then left out. If the cache does
            # not know, the file may exist. The first three files may name a special token, so that is an error. The
            # other two seldom add anything to tokenizer.json, so they are left out.
            known = try_to_load_from_cache(repository, name, **at) is _CACHED_NO_EXIST
            if not known and name not in (ADDED_TOKENS, MODEL):
                raise hub_errors.of_model(error, hub_id, name) from error
        except hub_errors.error_types() as error:
            raise hub_errors.of_model(error, hub_id, name) from error
    return files


def _is_needed(name: str, files: Mapping[str, bytes]) -> bool:
    """Whether a file can hold information that the files read before it do not hold."""
    said = {ADDED_TOKENS: b'"added_tokens_decoder"', MODEL: b'"tokenizer_class"'}
    return name not in said or said[name] not in files.get(CONFIG, b"")


def publishable(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """A tokenizer's files without the paths and addresses that libraries note there, and without names of code."""
    cleaned = dict(files)
    for name in (CONFIG, SPECIAL_TOKENS_MAP):
        values = json_object(files, name)
        kept = private_paths.without_places(values)
        kept.pop("auto_map", None)
        if kept != values:
            cleaned[name] = as_json(kept)
    return cleaned


def write_files(out: epath.Path, files: Mapping[str, bytes]) -> None:
    """Write a tokenizer's files into the folder `out`, tokenizer.json last.

    Each file is written atomically. So a process that is killed leaves no tokenizer.json, or a complete tokenizer.

    Raises:
      UserError: the folder cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in sorted(files, key=lambda name: name == TOKENIZER):
            storage.write_bytes(out / name, files[name])
    except OSError as error:
        raise UserError(
            f"the tokenizer cannot be written to {out}: {error.strerror or error}; set --workdir"
        ) from error
