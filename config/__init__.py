"""What an operator writes, checked and compiled: a directory of YAML files becomes the engine's `Repertoire`.

It may import `engine` and nothing else of ours; it reads files and time zone data, which the engine may not.
In the order of reading: `load` (start here) → `sources` (YAML with places) → `shape` (JSON Schema) → `draft` (all
files together) → `compile` (names resolved, expressions compiled) → `cases` (the examples in rule files).
`documents` are the shapes of what is written, `faults` what is said about it.
"""

from config.load import load_directory

__all__ = ["load_directory"]
