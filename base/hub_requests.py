"""Requests to the Hugging Face hub: they are counted, and slowed down before the hub refuses them.

The hub counts the requests of an account in windows of five minutes, over all hosts. Its answers tell how many are
left.
"""

import logging
import random
import threading
import time
from collections.abc import Mapping
from typing import Any

from base.hub_patience import asked_by

log = logging.getLogger(__name__)

LOW = 0.1
"""Share of the window's requests that is left when pauses begin."""
LONGEST_PAUSE_SECONDS = 30.0


class Requests:
    """The answers of the hub to this process."""

    def __init__(self) -> None:
        """Begin to count."""
        self.answers = self.refused = 0
        self.waited = 0.0
        """Seconds of pauses."""
        self._begun = time.monotonic()
        self._told = (0, 0)
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Count and pace the requests of huggingface_hub, and so of `datasets`; a second call has no effect."""
        from huggingface_hub import get_session

        client: Any = get_session()
        hooks: Mapping[str, list[Any]] = client.event_hooks
        if self.take not in (responses := hooks.get("response", [])):
            client.event_hooks = {**hooks, "response": [*responses, self.take]}

    def take(self, response: Any) -> None:
        """Count an answer, and wait before the next request if few are left."""
        wait = pause_after(response.status_code, response.headers)
        with self._lock:
            self.answers += 1
            self.refused += response.status_code == 429
            self.waited += wait
        if wait:
            time.sleep(wait)

    def tell(self) -> None:
        """Log the counts, if they have doubled since the last time or if the hub has refused a request since."""
        answers, refused = self._told
        if self.answers >= max(2 * answers, 1) or self.refused > refused:
            self._told = (self.answers, self.refused)
            minutes = max((time.monotonic() - self._begun) / 60, 1.0)
            log.info(
                "the hub has answered %d requests of this process (%.0f a minute); it refused %d for now (429), and "
                "%.0f seconds of pauses were made between requests",
                self.answers,
                self.answers / minutes,
                self.refused,
                self.waited,
            )


def pause_after(status: int, headers: Mapping[str, str]) -> float:
    """Seconds to wait after an answer of the hub.

    The hosts of a run have one count at the hub and see the same headers. So pauses are drawn at random: else all hosts
    would come back together. After a refusal huggingface_hub itself waits as long as the hub asks for.

    Args:
      status: HTTP status.
      headers: the answer's headers.
    """
    from huggingface_hub.utils import parse_ratelimit_headers

    if status == 429:
        return random.uniform(0, max(1.0, min(asked_by(status, headers) / 4, LONGEST_PAUSE_SECONDS)))
    left = parse_ratelimit_headers(headers)
    if left is None or not left.limit or left.remaining >= LOW * left.limit:
        return 0.0
    return random.uniform(0, min(2 * left.reset_in_seconds / (left.remaining + 1), LONGEST_PAUSE_SECONDS))


REQUESTS = Requests()
"""Those of this process."""
