"""To the Hugging Face hub: the folder of an exported model, in one commit.

The token is the one that huggingface_hub finds (HF_TOKEN, or a login). It is never passed on or written, and what the
client says is told on without it: nothing is raised `from` its exceptions, which hold the request that was sent.
"""

import contextlib
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from etils import epath

from base.errors import UserError
from base.storage import is_remote

logger = logging.getLogger(__name__)

FLAG = "--push_to_hub"
_PART = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?"
_ID = re.compile(rf"{_PART}/{_PART}", re.ASCII)
_TOKEN = re.compile(r"\b(hf|api_org)_\w{6,}", re.ASCII)
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.(safetensors(\.index\.json)?|onnx(\.data)?)", re.ASCII)
_TOKENS_PAGE = "https://huggingface.co/settings/tokens"


def check(repo_id: str) -> None:
    """Refuse what no push could do, before the work whose result is to be pushed; nothing is sent.

    Raises:
      UserError: an id that the hub would not take, no token, or HF_HUB_OFFLINE is set.
    """
    if not _ID.fullmatch(repo_id) or re.search(r"--|\.\.|\.git$", repo_id) or len(repo_id) > 96:
        raise UserError(
            f"{FLAG}={_clean(repo_id)} is not an id on the hub; write USER/NAME or ORGANISATION/NAME, each of letters,"
            " digits, '-', '_' and '.'"
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
) -> str:
    """Upload the files of a folder to a model repository, which is made if there is none; all of them or nothing.

    Weights in the repository that the folder does not have (shards, model.onnx) are those of another model and are
    removed in the same commit; its history keeps them. Everything else there stays.

    Args:
      folder: an exported model, local or gs://.
      repo_id: USER/NAME.
      private: of a new repository only; one that is there already stays as it is.
      message: of the commit.
      replaced: files to upload in place of the folder's of the same name.

    Returns:
      The repository's address.

    Raises:
      UserError: whatever goes wrong, without the token.
    """
    check(repo_id)
    failure: UserError
    try:
        return _push(epath.Path(folder), repo_id, private, message, replaced or {})
    except Exception as error:  # huggingface_hub, httpx and hf_xet raise what they like
        failure = _explain(error, repo_id)
    # Outside the handler, so that the client's exception is not even the context of this one.
    raise failure


def _push(
    folder: epath.Path, repo_id: str, private: bool, message: str, replaced: Mapping[str, bytes]
) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    url = str(api.create_repo(repo_id, private=private, exist_ok=True))
    there = api.model_info(repo_id)
    if private and not there.private:
        logger.warning("%s is a public repository already and stays one", repo_id)
    with _local(folder) as files:
        names = {file.name for file in files}
        stale = sorted(
            entry.rfilename
            for entry in there.siblings or []
            if entry.rfilename not in names and _WEIGHTS.fullmatch(entry.rfilename)
        )
        if stale:
            logger.warning("removed from %s, as they are of another model: %s", repo_id, ", ".join(stale))
        api.create_commit(
            repo_id,
            [
                *(CommitOperationDelete(name) for name in stale),
                *(CommitOperationAdd(file.name, replaced.get(file.name, file)) for file in files),
            ],
            commit_message=message,
        )
    return url


@contextlib.contextmanager
def _local(folder: epath.Path) -> Iterator[Sequence[Path]]:
    """The files of a folder where the client can read them: in place, or copied out of a bucket."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    if not is_remote(folder):
        yield [Path(file) for file in files]
        return
    with tempfile.TemporaryDirectory() as local:
        for file in files:
            file.copy(epath.Path(local) / file.name)
        yield [Path(local) / file.name for file in files]


def _explain(error: BaseException, repo_id: str) -> UserError:
    """The one line for an exception of the client."""
    # Of a bad request (400) the outer exception says more than the answer.
    answered = next((cause for cause in _causes(error) if _status(cause) not in (0, 400)), None)
    error = answered or error
    said = _clean(getattr(error, "server_message", None) or str(error) or type(error).__name__)
    status = _status(error)
    if not status and (shown := re.search(r"\((4\d\d|5\d\d) [A-Z]", said)):
        status = int(shown[1])  # hf_xet shows the status and drops what the hub said
    wrong, owner = f"{FLAG}={repo_id}", repo_id.split("/")[0]
    if status == 401:
        return UserError(
            f"{wrong}: the hub refuses the token (401); make another on {_TOKENS_PAGE}, then set HF_TOKEN to it or run"
            " `hf auth login`"
        )
    if status in (402, 413, 507) or (status == 403 and re.search(r"storage|quota", said, re.IGNORECASE)):
        return UserError(
            f"{wrong}: no room for it on the hub ({status}: {said}); free some, or push to an account that has more"
        )
    if status == 403 and answered:
        return UserError(
            f"{wrong}: the token may not write there (403: {said}); take a token with write access to {owner} from"
            f" {_TOKENS_PAGE}, or name another owner"
        )
    if status == 403:
        return UserError(
            f"{wrong}: the hub refuses the upload (403): either the token has no write access to {owner}"
            f" ({_TOKENS_PAGE}), or the storage of {owner} is full"
        )
    if status == 429:
        return UserError(f"{wrong}: the hub has had too many requests (429: {said}); push again later")
    if status >= 500 or (not status and _is_connection(error)):
        return UserError(f"{wrong}: the hub cannot be reached ({said}); push again when it can")
    return UserError(f"{wrong}: {type(error).__name__}: {said}")


def _status(error: BaseException) -> int:
    """The HTTP status of the answer that an exception tells of, 0 where there was none."""
    return getattr(getattr(error, "response", None), "status_code", 0)


def _is_connection(error: BaseException) -> bool:
    """Whether no answer came; httpx comes under more than one name."""
    return isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith("httpx")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _clean(text: str) -> str:
    """One line of readable length, without anything that is or looks like a token."""
    from huggingface_hub import get_token

    token = get_token()
    if token:
        text = text.replace(token, "***")
    return _TOKEN.sub(r"\1_***", " ".join(text.split()))[:300]
