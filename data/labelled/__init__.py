"""Labelled examples for fine-tuning: GLUE (from the hub, TFDS or GLUE's own files), and the user's own files."""
