"""Where documents come from: one module per kind of source, opened by `open_source`."""
