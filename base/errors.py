"""The exception for a user's mistake. A command shows it as one line, without a traceback."""


class UserError(Exception):
    """A mistake that the user can correct: bad configuration, bad input, a missing file.

    The message is one line. It says what was wrong (with the value), what would be right, and where to set it.
    Commands print it as `error: MESSAGE` and exit with status 2 (see `base.command_line.run`).
    """

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows, as IPython asks for it: the line, without a traceback."""
        return [f"error: {self}"]
