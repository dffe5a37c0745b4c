"""The one exception for a user's mistake: it is shown as one line, without a traceback."""


class UserError(Exception):
    """Something the user can put right: bad configuration, bad input, a missing file.

    The message is one line that says what was wrong (with the value), what would be right, and where to set it.
    Command lines print it as `error: MESSAGE` and exit with status 2 (see `base.command_line.run`).
    """
