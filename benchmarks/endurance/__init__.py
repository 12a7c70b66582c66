"""Endurance: what becomes of one worker under ten times what it manages, and in the long run.

`numbered` has the customers, whose signals are numbered; `account` counts what came of them, from the topics alone;
`stage` runs a worker with the publisher and the reader beside it; `overload` and `soak` are what is played there.
"""
