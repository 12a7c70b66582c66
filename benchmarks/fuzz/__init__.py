"""Coverage-guided fuzzing of everything that decodes: whatever bytes arrive, they are read or refused, never a crash.

`targets` says what is fuzzed and what each may raise, `one` runs one target under Atheris, `__main__` all of them.
Inputs that once crashed stay in `tests/fuzz/corpus`, and the tests run them.
"""
