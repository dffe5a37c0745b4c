"""The contract between the documents of a stream and its windows."""

from typing import Any, Protocol

import numpy as np

from data.document_counts import Counts

Document = str | np.ndarray
"""A document: its text, or its token ids (int32 [length]) if it comes from a prepared corpus."""


class Documents(Protocol):
    """Kept documents of one stream, before shuffling."""

    def read(self, counts: Counts) -> Document | None:
        """The next document; None at the end of each epoch. Every record on the way is counted in `counts`.

        Raises:
          UserError: an epoch has no document.
        """
        ...

    def position(self) -> Any:
        """Position of the next read, JSON-able."""
        ...
