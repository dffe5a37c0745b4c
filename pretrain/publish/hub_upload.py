"""To the Hugging Face hub: the folder of an exported model, in one commit.

huggingface_hub finds the token (HF_TOKEN, or a login). The token is never passed on or written, and messages of the
client are shown without it. So no error is raised `from` the client's exceptions, which hold the request that was sent.
"""

import contextlib
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from etils import epath

from base import hub_ids
from base.errors import UserError
from base.hub_errors import causes, may_pass, one_line, status, without_tokens
from base.storage import is_remote

logger = logging.getLogger(__name__)

FLAG = "--push_to_hub"
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "model.onnx",
    "model.onnx.data",
    "model_quantized.onnx*",
)
"""Patterns of a model's files that must not remain in the repository when another model replaces it."""

_TOKENS_PAGE = "https://huggingface.co/settings/tokens"


def check_flags(repo_id: str, *, public: bool) -> None:
    """Refuse --public without the flag that it belongs to.

    Raises:
      UserError: `public` is set, and `repo_id` is empty.
    """
    if public and not repo_id:
        raise UserError(f"--public has no effect without {FLAG}=USER/NAME, which is not given")


def check(repo_id: str) -> None:
    """Refuse an upload that cannot succeed, before the work whose result is uploaded. Nothing is sent.

    Raises:
      UserError: an id that the hub would not take, no token, or HF_HUB_OFFLINE is set.
    """
    if not hub_ids.is_id(repo_id, with_owner=True):
        raise UserError(
            f"{FLAG}={without_tokens(repo_id)} is not an id on the hub; write USER/NAME or ORGANISATION/NAME,"
            " each of letters, digits, '-', '_' and '.'"
        )
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{FLAG}={repo_id}: HF_HUB_OFFLINE is set in the environment; unset it")
    if get_token() is None:
        raise UserError(
            f"{FLAG}={repo_id} needs a token with write access: make one on {_TOKENS_PAGE}, then set HF_TOKEN to it or"
            " run `hf auth login`"
        )


def push(
    folder: epath.PathLike,
    repo_id: str,
    *,
    private: bool = True,
    message: str,
    replaced: Mapping[str, bytes] | None = None,
    revision: str = "",
) -> str:
    """Upload all files of a folder to a model repository in one commit. If there is no repository, it is made.

    Weights in the repository that the folder does not have (shards, model.onnx) are those of another model and are
    removed in the same commit; its history keeps them. Everything else there stays.

    Args:
      folder: an exported model, local or gs://.
      repo_id: USER/NAME.
      private: of a new repository only; one that is there already stays as it is.
      message: of the commit.
      replaced: files to upload in place of the folder's of the same name.
      revision: the branch, which is made if need be; '' is the main one.

    Returns:
      The repository's address.

    Raises:
      UserError: whatever goes wrong, without the token.
    """
    check(repo_id)
    failure: UserError
    try:
        return _push(epath.Path(folder), repo_id, private, message, replaced or {}, revision or None)
    except Exception as error:  # huggingface_hub, httpx and hf_xet raise what they like
        failure = _explain(error, repo_id)
    # Outside the handler, so that the client's exception is not even the context of this one.
    raise failure


def _push(
    folder: epath.Path,
    repo_id: str,
    private: bool,
    message: str,
    replaced: Mapping[str, bytes],
    revision: str | None,
) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    api = HfApi()
    url = str(api.create_repo(repo_id, private=private, exist_ok=True))
    if revision:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    there = api.model_info(repo_id, revision=revision)
    if private and not there.private:
        logger.warning("%s is a public repository already and stays one", repo_id)
    with _staged(folder, replaced) as local:
        weights = filter_repo_objects(
            (file.rfilename for file in there.siblings or []), allow_patterns=[*WEIGHTS]
        )
        if stale := sorted(name for name in weights if not (local / name).exists()):
            logger.warning("removed from %s, as they are of another model: %s", repo_id, ", ".join(stale))
        # A folder of fewer than 200 files is one commit, also where the client uploads in a pipeline.
        api.upload_folder(
            repo_id=repo_id,
            folder_path=local,
            commit_message=message,
            delete_patterns=stale or None,
            revision=revision,
        )
    return url


@contextlib.contextmanager
def _staged(folder: epath.Path, replaced: Mapping[str, bytes]) -> Iterator[Path]:
    """A local folder of the files to upload: links to local files, copies of those in a bucket, and `replaced`."""
    with tempfile.TemporaryDirectory() as temporary:
        local = Path(temporary)
        for name, file in _files(folder):
            if name in replaced:
                continue
            (local / name).parent.mkdir(parents=True, exist_ok=True)
            if is_remote(folder):
                file.copy(epath.Path(local / name))
            else:
                (local / name).symlink_to(Path(file).absolute())
        for name, content in replaced.items():
            (local / name).write_bytes(content)
        yield local


def _files(folder: epath.Path, under: str = "") -> Iterator[tuple[str, epath.Path]]:
    """The files of a folder and of the folders in it, each with its path from there."""
    for file in folder.iterdir():
        if file.is_dir():
            yield from _files(file, f"{under}{file.name}/")
        else:
            yield under + file.name, file


def _explain(error: BaseException, repo_id: str) -> UserError:
    """The one line for an exception of the client."""
    # For a bad request (400), the outer exception says more than the hub's answer.
    answered = next((cause for cause in causes(error) if status(cause) not in (0, 400)), None)
    error = answered or error
    said, code = one_line(error), status(error)
    if not code and (shown := re.search(r"\((4\d\d|5\d\d) [A-Z]", said)):
        code = int(shown[1])  # hf_xet shows the status and drops what the hub said
    wrong, owner = f"{FLAG}={repo_id}", repo_id.split("/")[0]
    if code == 401:
        return UserError(
            f"{wrong}: the hub refuses the token (401); make another on {_TOKENS_PAGE}, then set HF_TOKEN to it or run"
            " `hf auth login`"
        )
    if code in (402, 413, 507) or (code == 403 and re.search(r"storage|quota", said, re.IGNORECASE)):
        return UserError(
            f"{wrong}: no room for it on the hub ({code}: {said}); free some, or push to an account that has more"
        )
    if code == 403 and answered:
        return UserError(
            f"{wrong}: the token may not write there (403: {said}); take a token with write access to {owner} from"
            f" {_TOKENS_PAGE}, or name another owner"
        )
    if code == 403:
        return UserError(
            f"{wrong}: the hub refuses the upload (403): either the token has no write access to {owner}"
            f" ({_TOKENS_PAGE}), or the storage of {owner} is full"
        )
    if code == 429:
        return UserError(f"{wrong}: the hub has had too many requests (429: {said}); push again later")
    if code >= 500 or (not code and may_pass(error)):
        return UserError(f"{wrong}: the hub cannot be reached ({said}); push again when it can")
    return UserError(f"{wrong}: {type(error).__name__}: {said}")
