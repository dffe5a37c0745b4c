"""Labelled examples for fine-tuning: GLUE from the hub, TFDS or its own files, and files of the user's."""
