"""Models that score candidates behind the engine's `Scorer` port. May import the engine, River and numpy.

Start with `models.baseline`: fixed priors, what an engine decides by before anything was learned.
"""
