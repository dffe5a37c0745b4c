"""Reads what `python -m data.prepare` writes: shards of token ids, in a global shuffle."""
