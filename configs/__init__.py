"""Recipes: one ml_collections file each, opening with its launch line, hardware and expected cost.

A file sets only what differs from the defaults, which are declared and explained in `pretrain/config.py`;
nothing imports this package.
"""
