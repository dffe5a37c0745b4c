"""Ids of models and data sets on the Hugging Face hub: `name` or `owner/name`."""

import re

MOST_CHARACTERS = 96

_NAME = r"\w(?:[\w.-]*\w)?"
_ID = re.compile(rf"(?:(?P<owner>{_NAME})/)?{_NAME}", re.ASCII)


def is_id(name: str, *, with_owner: bool = False) -> bool:
    """Whether a name has the form of an id on the hub: the rule of `huggingface_hub.utils.validate_repo_id`.

    Args:
      name: what a user wrote.
      with_owner: only `owner/name` will do.
    """
    match = _ID.fullmatch(name)
    if match is None or (with_owner and match["owner"] is None):
        return False
    return len(name) <= MOST_CHARACTERS and not re.search(r"--|\.\.|\.git$", name)


def parted(name: str) -> tuple[str, str | None]:
    """An id and the revision that may follow it: `owner/name@REVISION`, a branch, tag or commit; else None."""
    hub_id, at, revision = name.partition("@")
    return (hub_id, revision or None) if at else (name, None)
