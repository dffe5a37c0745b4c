"""Launchers: start the same command on many machines.

Of the other packages they import `data.command_line`, `data.errors` and `data.schema` alone, so that they run where
there is no JAX. `pretrain` takes the table of TPU types from `launch.accelerators`.
"""
