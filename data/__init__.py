"""Text in, batches out: sources of documents, streams with an exact state, packing, prefetching.

Entry points: `data.sources.open_source` and `data.batches.open_batches`.
"""

from base import home, storage

storage.choose_client()
home.choose_hub_cache()
