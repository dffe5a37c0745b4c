"""Text in, batches out: sources of documents, logical streams with exact state, packing, prefetching.

The lowest package of the project: it imports none of the others. `base.errors` and `base.schema` (typed, documented
configuration) live here for the same reason. Entry points: `data.sources.open_source` and `data.batches.open_batches`.
"""

from base import storage

storage.choose_client()
