"""The shapes of what an operator writes: one struct per kind of file, one sentence per field.

The JSON Schemas are made of these structs. `title` says what is expected where a value does not fit. Lists whose
order says nothing are sets. Whether names refer to anything is checked where documents are compiled.
"""

from __future__ import annotations

from config.documents.customers import EngineFile, ProfileFile, SegmentsFile
from config.documents.decisions import ArbitrationFile, ConstraintsFile, ExperimentsFile, TriggersFile
from config.documents.learning import ModelsFile
from config.documents.offers import ActionsFile, ChannelsFile
from config.documents.values import Document

DOCUMENTS: dict[str, type[Document]] = {
    "engine": EngineFile,
    "profile": ProfileFile,
    "segments": SegmentsFile,
    "channels": ChannelsFile,
    "actions": ActionsFile,
    "triggers": TriggersFile,
    "constraints": ConstraintsFile,
    "arbitration": ArbitrationFile,
    "experiments": ExperimentsFile,
    "models": ModelsFile,
}
"""The kinds of files and what each holds."""

__all__ = ["DOCUMENTS", "Document"]
