"""Launchers: start the same command on many machines.

Of the other packages they import `base.command_line`, `base.errors` and `base.schema` alone, so that they run where
there is no JAX. `pretrain` takes the table of TPU types from `base.tpu_types`.
"""
