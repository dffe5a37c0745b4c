"""The contract between the documents of a stream and its windows."""

from typing import Any, Protocol

from data.document_counts import Counts
from data.source_protocol import Document


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
