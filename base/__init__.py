"""Code that every package uses: errors, typed configuration, command lines, files, and the table of TPU types.

It imports no other package of the project and no JAX, so that a launcher can run on a machine without JAX.
"""
