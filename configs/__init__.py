"""Recipes: each is one ml_collections file, which starts with its command, its hardware and its expected cost.

A file sets only the fields that differ from their defaults. `pretrain/config.py`, `finetune/config.py` and
`launch/config.py` declare and explain all fields. No module imports this package.
"""
