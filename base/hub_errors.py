"""Errors of the Hugging Face hub: the meaning of a client's exception, and its message on one line.

The client chains exceptions, and the most specific one is not always the last. So `problem` reads the whole chain. The
caller writes the message for the user, because it knows which field or flag the user set.
"""

import enum
import re
from collections.abc import Iterator

from base import hub_ids
from base.errors import UserError

MOST_CHARACTERS = 300
"""Largest length of a client's message, in characters; the rest is cut off."""
TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)
"""HTTP status codes after which the same request may succeed."""

_TOKEN = re.compile(r"\b(hf|api_org)_\w{6,}", re.ASCII)


class Problem(enum.Enum):
    """What went wrong."""

    GATED = enum.auto()
    """The owner has to grant access first."""
    MISSING = enum.auto()
    """There is no such repository, or it is private."""
    NO_REVISION = enum.auto()
    """The repository has no such revision."""
    UNREACHABLE = enum.auto()
    """The hub did not answer, and the local cache does not have the file."""
    OTHER = enum.auto()


def problem(error: BaseException) -> Problem:
    """What an exception of huggingface_hub, or of a library above it, means."""
    names = {kind.__name__ for cause in causes(error) for kind in type(cause).__mro__}
    for name, meaning in (
        ("GatedRepoError", Problem.GATED),  # a kind of RepositoryNotFoundError
        ("RevisionNotFoundError", Problem.NO_REVISION),
        ("RepositoryNotFoundError", Problem.MISSING),
        ("DatasetNotFoundError", Problem.MISSING),  # of `datasets`
        ("LocalEntryNotFoundError", Problem.UNREACHABLE),
    ):
        if name in names:
            return meaning
    return Problem.UNREACHABLE if may_pass(error) else Problem.OTHER


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later: the connection broke, or the server was overloaded."""
    for cause in causes(error):
        if code := status(cause):
            return code in TRANSIENT_STATUS
        if isinstance(cause, ConnectionError | TimeoutError) or _is_of_httpx(cause):
            return True
    return False


def status(error: BaseException) -> int:
    """The HTTP status of an exception's response; 0 if there was no response."""
    return getattr(getattr(error, "response", None), "status_code", 0)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, the one it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def one_line(error: BaseException) -> str:
    """The message of an exception: one line of at most MOST_CHARACTERS, without access tokens."""
    return without_tokens(getattr(error, "server_message", None) or str(error) or type(error).__name__)


def without_tokens(text: str) -> str:
    """A text on one line of at most MOST_CHARACTERS. The user's token, and texts that look like tokens, are masked."""
    from huggingface_hub import get_token

    token = get_token()
    if token:
        text = text.replace(token, "***")
    return _TOKEN.sub(r"\1_***", " ".join(text.split()))[:MOST_CHARACTERS]


def error_types() -> tuple[type[Exception], ...]:
    """The exceptions that a download from the hub raises."""
    from huggingface_hub import errors

    return (errors.HfHubHTTPError, errors.HFValidationError, OSError)


def of_model(error: Exception, hub_id: str, what: str) -> UserError:
    """The message for a model that could not be downloaded.

    Args:
      error: one of `error_types`.
      hub_id: the model.
      what: the part of it that was asked for, such as a file's name.
    """
    match problem(error):
        case Problem.NO_REVISION:
            name, revision = hub_ids.parted(hub_id)
            return UserError(
                f"the hub's {name} has no revision {revision!r}; see https://huggingface.co/{name}/commits/main"
            )
        case Problem.GATED:
            return UserError(
                f"the hub's {hub_id} is gated: accept its terms on its page there, then set HF_TOKEN in the environment"
            )
        case Problem.MISSING:
            return UserError(
                f"there is no folder {hub_id}, and no model of that id on the hub that you may read"
                " (a private one needs HF_TOKEN in the environment)"
            )
        case Problem.UNREACHABLE:
            return UserError(
                f"there is no folder {hub_id}; {what} of the hub's model {hub_id} is not in the local cache, and the "
                "hub cannot be reached; give a local folder, or connect to the network"
            )
    return UserError(f"{what} of {hub_id} could not be downloaded from the hub: {one_line(error)}")


def _is_of_httpx(error: BaseException) -> bool:
    """Whether the hub client's HTTP library raised an exception. Its module's name begins with httpx."""
    return type(error).__module__.startswith("httpx")
