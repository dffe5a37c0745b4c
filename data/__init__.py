"""Text in, batches out: sources of documents, logical streams with exact state, packing, prefetching.

Entry points: `data.sources.open_source` and `data.batches.open_batches`.
"""

from base import storage

storage.choose_client()
