"""The Hugging Face hub: what an id looks like, and what goes wrong there, each said in one line."""

import re

from base.errors import UserError

_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def is_id(name: str) -> bool:
    """Whether a name could be that of a model on the hub: `name` or `owner/name`."""
    return _ID.fullmatch(name) is not None


def error_types() -> tuple[type[Exception], ...]:
    """What a download from the hub raises."""
    from huggingface_hub import errors

    return (errors.HfHubHTTPError, errors.HFValidationError, OSError)


def explain(error: Exception, hub_id: str, what: str) -> UserError:
    """The one line for an exception of huggingface_hub.

    Args:
      error: one of `error_types`.
      hub_id: the model that was asked for.
      what: what of it was asked for, such as a file's name.
    """
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return UserError(
            f"the hub's {hub_id} is gated: accept its terms on its page there, then set HF_TOKEN in the environment"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"there is no folder {hub_id}, and no model of that id on the hub that you may read"
            " (a private one needs HF_TOKEN in the environment)"
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return UserError(
            f"there is no folder {hub_id}, and the hub cannot be reached for {what} of that model"
            " (nor is it in the local cache); give a local folder, or connect"
        )
    return UserError(
        f"{what} of {hub_id} could not be downloaded from the hub: {' '.join(str(error).split())}"
    )
