"""What an error of gcloud means: try again, stop at once, or nothing at all."""

import random
import re
from enum import Enum

from launch.subprocesses import ABORTED, Result

LONGEST_PAUSE = 600.0


class Failure(Enum):
    """What to do about a failed call."""

    TRANSIENT = "try again later"
    ABSENT = "what was asked for does not exist"
    PRESENT = "what was to be made exists already"
    PERMANENT = "trying again does not help"


# In this order: a quota that is used up is reported as RESOURCE_EXHAUSTED too, and a rate limit as a quota.
_RULES = (
    (Failure.TRANSIENT, r"per minute|rate.?limit"),
    (
        Failure.PERMANENT,
        r"quota|PERMISSION_DENIED|permission|UNAUTHENTICATED|INVALID_ARGUMENT|not valid|auth login",
    ),
    (Failure.PRESENT, r"ALREADY_EXISTS|already exists"),
    (
        Failure.TRANSIENT,
        r"RESOURCE_EXHAUSTED|no more capacity|stockout|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|INTERNAL\b|\b429\b"
        r"|\b50[0234]\b|backend error|internal error|connection (reset|refused|aborted)|timed? ?out|no answer within"
        r"|network is unreachable|name resolution",
    ),
    (Failure.ABSENT, r"NOT_FOUND|was not found|not found|matched no objects|\b404\b"),
)


def classify(result: Result) -> Failure:
    """What the failure of a call of gcloud means, by its message; permanent where the message is not known."""
    if result.status < 0 or result.status == ABORTED:
        return Failure.TRANSIENT  # gcloud itself was ended: nothing is known about the request
    return meaning(result.stderr) or Failure.PERMANENT


def meaning(text: str) -> Failure | None:
    """What an error message of Google Cloud means; None for one that is not known."""
    return next((kind for kind, rule in _RULES if re.search(rule, text, re.IGNORECASE)), None)


def message(result: Result) -> str:
    """The line of gcloud's error output that says what is wrong."""
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    error = next((line for line in lines if line.startswith("ERROR:")), "")
    if error and not error.rstrip().endswith(":"):
        start = lines.index(error)
        error = " ".join(lines[start : start + 3]) if len(error) < 100 else error
    text = error or " ".join(lines[-2:]) or f"exit status {result.status}"
    return re.sub(r"\s+", " ", text.removeprefix("ERROR: "))[:300]


def pause(attempt: int, first: float) -> float:
    """Seconds before attempt number `attempt` + 1: doubling from `first`, with jitter, at most ten minutes.

    Between half and all of the doubled time, so that launchers that were refused together do not return together.
    """
    longest = min(first * 2.0**attempt, LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)
