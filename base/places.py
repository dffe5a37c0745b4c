"""The folder or file that a flag names."""

from etils import epath

from base.errors import UserError
from base.passwords import check_no_password


def place_of(text: str, flag: str) -> epath.Path:
    """The path of a flag's value, with `~` replaced.

    Args:
      text: the value: a local path, or one in a bucket.
      flag: the flag, for messages: "--workdir".

    Raises:
      UserError: an address that holds a password, or of a kind that cannot be written.
    """
    check_no_password(text, flag)
    try:
        return epath.Path(text).expanduser()
    except KeyError:  # etils knows no such scheme
        raise UserError(f"{flag}={text} should be a local path or gs://BUCKET/NAME") from None
