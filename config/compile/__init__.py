"""Compiling: documents -> the engine's repertoire, with every fault of meaning found. Start with `repertoire`.

`compilation` holds what all kinds share, `customers`, `offers`, `decisions` and `learning` the kinds themselves.
"""
