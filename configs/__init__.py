"""Recipes: each is one ml_collections file. Its docstring has the command; that of a training recipe, the hardware too.

A file sets only the fields that differ from their defaults. `pretrain/config.py`, `finetune/config.py` and
`launch/config.py` declare and explain all fields. No module imports this package.
"""
