"""The classifier: an encoder with the head of its family, in JAX, in transformers' files and in ONNX."""
