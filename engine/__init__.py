"""The decision core: what happens to a customer's event, as pure functions over immutable messages and one profile.

Nothing here touches Kafka, a clock, a random generator or a file: time and seeds are arguments, so the worker,
`batuta replay`, the tests and the benchmarks run the same code. It may import the standard library, msgspec and
numpy, and nothing else of ours. Start with `engine.pipeline`, which reads in the order of a customer's event.
"""
