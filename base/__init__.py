"""What every package stands on: errors, typed configuration, command lines, files, and the table of TPU types.

It imports no sibling, and no JAX, so that a launcher can run where only Python is.
"""
