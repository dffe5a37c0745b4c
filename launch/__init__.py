"""Launchers: start the same command on many machines.

They import `base` alone, so that they run where there is no JAX.
"""
