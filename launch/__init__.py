"""Launchers: start the same command on many machines.

They import only `base`, so that they run on a machine without JAX.
"""
