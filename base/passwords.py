"""Refuses addresses that hold a password."""

import re

from base.errors import UserError

PASSWORD = re.compile(r"(\w+)://[^/\s@]*:[^/\s]*@|(https?)://[^/\s@]+@", re.ASCII)
"""Matches the start of an address that holds a password or a token."""


def check_no_password(value: str, setting: str) -> None:
    """Refuse an address that holds a password: it would be kept in config.json, in checkpoints and in logs.

    Args:
      value: paths and addresses, or any other text.
      setting: the field that holds it, for the message.

    Raises:
      UserError: it does; the message does not show it.
    """
    if found := PASSWORD.search(value):
        raise UserError(
            f"{setting} holds an address with a password ({found[1] or found[2]}://...@...), which would be kept in "
            "config.json, in checkpoints and in logs; leave it out: give the password to the store's client (in the "
            "environment or in its own file), or download the files"
        )
