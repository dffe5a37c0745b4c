"""The meaning of gcloud's errors: try again, stop, or no error for this purpose."""

import random
import re
from enum import Enum

from launch.subprocesses import ABORTED, Result

LONGEST_PAUSE = 600.0


class Failure(Enum):
    """The kind of a failed call."""

    TRANSIENT = "try again later"
    ABSENT = "the resource does not exist"
    PRESENT = "the resource exists already"
    PERMANENT = "trying again does not help"


# The order matters: gcloud reports an exhausted quota as RESOURCE_EXHAUSTED too, and a rate limit as a quota.
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
    """The kind of a failed gcloud call, from its error message; permanent for an unknown message."""
    if result.status < 0 or result.status == ABORTED:
        return Failure.TRANSIENT  # gcloud itself was killed, so the fate of the request is unknown
    return meaning(result.stderr) or Failure.PERMANENT


def meaning(text: str) -> Failure | None:
    """The kind of failure in an error message of Google Cloud; None for an unknown message."""
    return next((kind for kind, rule in _RULES if re.search(rule, text, re.IGNORECASE)), None)


def message(result: Result) -> str:
    """The error message in gcloud's error output, as one line of at most 300 characters."""
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    error = next((line for line in lines if line.startswith("ERROR:")), "")
    if error and not error.rstrip().endswith(":"):
        start = lines.index(error)
        error = " ".join(lines[start : start + 3]) if len(error) < 100 else error
    text = error or " ".join(lines[-2:]) or f"exit status {result.status}"
    return re.sub(r"\s+", " ", text.removeprefix("ERROR: "))[:300]


def pause(attempt: int, first: float) -> float:
    """The pause before attempt number `attempt` + 1, in seconds. It doubles from `first`, up to ten minutes.

    The pause is a random value between half and all of that time. So several launchers that were refused at the same
    time do not try again at the same time.
    """
    longest = min(first * 2.0**attempt, LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)
