"""Patience with the Hugging Face hub: a request that it was too busy for is made again, when it asks for that."""

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from base.hub_errors import TRANSIENT_STATUS, causes, status

T = TypeVar("T")

ATTEMPTS = 6
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 30.0
LONGEST_ASKED_SECONDS = 600.0
"""Longest wait that the hub may ask for. It counts requests in windows of five minutes."""

CLIENT = "huggingface_hub"

_told: set[str] = set()


def tell(logger: logging.Logger, hub_id: str) -> None:
    """Log once in a process that a model comes from the hub: a mistyped folder may look like an id.

    Args:
      logger: where to log it.
      hub_id: the model.
    """
    if hub_id not in _told:
        _told.add(hub_id)
        logger.info("there is no folder %s; asking the hub for it", hub_id)


@contextlib.contextmanager
def quiet_client() -> Iterator[None]:
    """Hide warnings of huggingface_hub, two lines a retry. They end in an error, which this project shows in one line.

    It sets its level when it is imported, so a level that was set before has no effect.
    """
    client = logging.getLogger(CLIENT)
    before = client.level
    client.setLevel(max(before, logging.ERROR))
    try:
        yield
    finally:
        client.setLevel(before)


def patiently(request: Callable[[], T]) -> T:
    """Make a request, and again while the hub is busy: at most ATTEMPTS times.

    Args:
      request: it raises what the hub's client raises.
    """
    for failures in range(1, ATTEMPTS):
        try:
            with quiet_client():
                return request()
        except Exception as error:  # datasets, huggingface_hub and pyarrow raise many types
            if not is_busy(error):
                raise
            pause(error, failures)
    with quiet_client():
        return request()


def is_busy(error: BaseException) -> bool:
    """Whether the hub has answered that it takes no request now (429, 503 and the like)."""
    return any(status(cause) in TRANSIENT_STATUS for cause in causes(error))


def asked_seconds(error: BaseException) -> float:
    """How long the hub asks to wait, by the headers of its answer; 0 where it does not say."""
    answers = ((status(cause), getattr(cause, "response", None)) for cause in causes(error))
    return next(
        (asked for code, answer in answers if (asked := asked_by(code, getattr(answer, "headers", {})))), 0.0
    )


def asked_by(code: int, headers: Mapping[str, str]) -> float:
    """How long an answer of the hub asks to wait, in seconds, by its HTTP status and headers; 0 if it does not say."""
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(headers)
    if code == 429 and limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    value = headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0


def pause(error: Exception, failures: int) -> None:
    """Wait before the next try: as long as the hub asks for, and a part that differs from process to process.

    The processes of a run make the same requests at the same time. So the hub would refuse those that come back
    together.

    Args:
      error: the failure.
      failures: how many there were in a row.
    """
    wait = min(FIRST_WAIT_SECONDS * 2 ** (failures - 1), LONGEST_WAIT_SECONDS)
    asked = min(asked_seconds(error), LONGEST_ASKED_SECONDS)
    time.sleep(max(asked, wait) + random.uniform(0, max(wait, asked / 4)))
