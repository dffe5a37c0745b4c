"""Checks of the variables and secrets in a launch config: the config has their names, never their values."""

import re
from collections.abc import Sequence

from base.errors import UserError
from launch.config import LaunchConfig

VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
TOKEN = re.compile(r"\b(hf_|sk-|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AKIA|ya29\.)[A-Za-z0-9_-]{8}")
"""First characters of the tokens of Hugging Face, OpenAI, GitHub, GitLab, Slack, AWS and Google."""
DIGEST = re.compile(r"[0-9a-fA-F]{32}")


def is_text(value: str) -> bool:
    """Whether a value can be written as UTF-8. Python reads other bytes of a command line as lone surrogates."""
    return not re.search(r"[\ud800-\udfff]", value)


def check_names(config: LaunchConfig, command: Sequence[str]) -> None:
    """Refuse a value where a name belongs, and a token in the command. The message never repeats the value.

    Arguments that are not UTF-8 text are refused too, because a job is written to a file.

    Raises:
      UserError: config.env, config.secrets or the command has such an entry.
    """
    for index, entry in enumerate(config.env):
        if not VARIABLE.fullmatch(entry):
            raise UserError(
                f"config.env[{index}] should be the name of an environment variable alone: its value is taken from "
                "the environment"
            )
    for index, entry in enumerate(config.secrets):
        variable, _, secret = entry.partition("=")
        if not VARIABLE.fullmatch(variable) or TOKEN.search(secret) or DIGEST.search(secret):
            raise UserError(
                f"config.secrets[{index}] should be NAME=SECRET, a variable and the name of the secret that it is read "
                "from, as in HF_TOKEN=hf-token; never the value"
            )
    for place, word in enumerate(command, 1):
        if not is_text(word):
            raise UserError(f"word {place} of the command is not UTF-8 text; rename the file that it names")
        if TOKEN.search(word):
            raise UserError(
                f"word {place} of the command looks like a token, which process lists and logs would show; take it "
                "out, and name the secret in config.secrets"
            )
