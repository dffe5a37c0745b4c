"""`python -m data.prepare`: clean, deduplicate and tokenize a corpus once, into shards that runs read.

It stands above `tokenizer`, which it calls. The rest of `data` does not import it.
"""
