"""Encoding and batching: turn labelled texts into batches of token ids."""
