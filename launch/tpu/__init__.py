"""TPU pods of Google Cloud: `python -m launch.tpu`."""
