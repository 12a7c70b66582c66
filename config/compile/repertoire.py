"""From a draft to the repertoire: every kind compiled in an order in which each finds what it refers to."""

from __future__ import annotations

import hashlib

import msgspec

from config.compile import customers, decisions, learning, offers
from config.compile.compilation import Compilation
from config.documents import DOCUMENTS
from config.documents.customers import EngineFile, ProfileFile, SegmentsFile
from config.documents.decisions import ArbitrationFile, ConstraintsFile, ExperimentsFile, TriggersFile
from config.documents.learning import ModelsFile
from config.documents.offers import ActionsFile, ChannelsFile
from config.draft import Draft
from config.faults import Fault
from engine.funnel import prepare
from engine.history import retention_of
from engine.repertoire import Repertoire


def compile_draft(draft: Draft) -> tuple[Repertoire, list[Fault]]:
    """Compile everything; with faults the repertoire has stand-ins in it and must not be used."""
    c = Compilation(draft)
    engine = _engine(draft)
    c.partitions = engine.partitions
    channels, acts = draft.document(ChannelsFile), draft.document(ActionsFile)
    constraints, experiments = draft.document(ConstraintsFile), draft.document(ExperimentsFile)
    profile, models = draft.document(ProfileFile), draft.document(ModelsFile)
    zones = customers.compile_zones(engine, c)
    rules = customers.compile_profile(profile, draft.document(SegmentsFile), c)
    placements = offers.compile_placements(channels, acts, c)
    actions = offers.compile_actions(acts, placements, decisions.purposes_of(constraints), c)
    candidates = offers.candidates_of(actions)
    held = decisions.compile_constraints(constraints, rules.limits, c)
    arbitration = decisions.compile_arbitration(("arbitration",), draft.document(ArbitrationFile), c)
    tests = decisions.compile_experiments(experiments, c)
    arbitrations = [each.arbitration for test in tests for each in test.arms if each.arbitration is not None]
    repertoire = Repertoire(
        name=engine.name,
        version=version_of(draft),
        prefix=engine.prefix,
        partitions=engine.partitions,
        source=engine.source,
        max_future_ms=c.span_ms(("engine", "max_future"), engine.max_future, or_none=True),
        zones=zones,
        identity=customers.compile_identity(profile.identifiers, c),
        profile=rules,
        channels=offers.compile_channels(channels, c),
        placements=placements,
        actions=actions,
        candidates=candidates,
        predicates=c.predicates,
        constraints=held,
        retention=retention_of(held, (arbitration, *arbitrations), tuple(actions.values())),
        arbitration=arbitration,
        experiments=tests,
        holdout=decisions.compile_holdout(experiments.holdout, c),
        triggers=decisions.compile_triggers(draft.document(TriggersFile), c),
        features=learning.compile_features(models, c),
        action_features=learning.compile_action_features(models, c),
        models=learning.compile_models(models, candidates, c),
        parameters=engine.parameters,
        seed=engine.seed,
    )
    if not c.faults and not draft.left_out:
        decisions.check_pools(repertoire, c)
        learning.check_models(repertoire, models, acts, c)
    if not c.faults and not draft.left_out:
        prepare(repertoire)
    return repertoire, c.faults


def _engine(draft: Draft) -> EngineFile:
    """The engine's file, or a stand-in so that the other files are checked without it."""
    return draft.document(EngineFile, name="unnamed", source="unnamed")


def version_of(draft: Draft) -> str:
    """64 bits in hexadecimal over the content: names of files, order of entries, comments and cases do not matter."""
    content = {kind: draft.document(shape) for kind, shape in DOCUMENTS.items() if shape is not EngineFile}
    encoded = msgspec.json.encode({**content, "engine": _engine(draft)}, order="deterministic")
    return hashlib.blake2b(encoded, digest_size=8).hexdigest()
