"""memguard: an embeddable memory guard for Python services.

``import memguard`` costs next to nothing: every name below is fetched from its module when first used.
"""

__version__ = "0.1.0"

__all__ = [
    "AdmissionRefused",
    "AlreadyGuarding",
    "Cache",
    "Cost",
    "Event",
    "FeatureOff",
    "GcPolicy",
    "GcStats",
    "Guard",
    "Holder",
    "Incident",
    "LeakReport",
    "Level",
    "Limit",
    "LimitKind",
    "LimitNotFound",
    "MemguardError",
    "MissingExtra",
    "Pool",
    "PoolFull",
    "Reading",
    "Relief",
    "Roster",
    "Rules",
    "RulesError",
    "Size",
    "Snapshot",
    "States",
    "Ticket",
    "Verdict",
    "Vitals",
    "__version__",
    "cached",
    "sizeof",
]

# Every type checker takes this name as true; importing it from typing would cost more than the rest of the file.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from memguard.admission import Ticket
    from memguard.agents.pools import Pool
    from memguard.agents.states import States
    from memguard.caching.functions import cached
    from memguard.caching.mapping import Cache
    from memguard.errors import (
        AdmissionRefused,
        AlreadyGuarding,
        FeatureOff,
        LimitNotFound,
        MemguardError,
        MissingExtra,
        PoolFull,
        RulesError,
    )
    from memguard.findings import LeakReport, Verdict
    from memguard.guard import Guard
    from memguard.kinds import Cost as Cost
    from memguard.kinds import LimitKind as LimitKind
    from memguard.model import (
        Event,
        GcStats,
        Holder,
        Incident,
        Level,
        Limit,
        Reading,
        Relief,
        Snapshot,
        Vitals,
    )
    from memguard.reclaimers.gc_policy import GcPolicy
    from memguard.roster import Roster
    from memguard.rules import Rules
    from memguard.sizing import Size, sizeof

_HOMES = {
    "AdmissionRefused": "memguard.errors",
    "AlreadyGuarding": "memguard.errors",
    "Cache": "memguard.caching.mapping",
    "Cost": "memguard.kinds",
    "Event": "memguard.model",
    "FeatureOff": "memguard.errors",
    "GcPolicy": "memguard.reclaimers.gc_policy",
    "GcStats": "memguard.model",
    "Guard": "memguard.guard",
    "Holder": "memguard.model",
    "Incident": "memguard.model",
    "LeakReport": "memguard.findings",
    "Level": "memguard.model",
    "Limit": "memguard.model",
    "LimitKind": "memguard.kinds",
    "LimitNotFound": "memguard.errors",
    "MemguardError": "memguard.errors",
    "MissingExtra": "memguard.errors",
    "Pool": "memguard.agents.pools",
    "PoolFull": "memguard.errors",
    "Reading": "memguard.model",
    "Relief": "memguard.model",
    "Roster": "memguard.roster",
    "Rules": "memguard.rules",
    "RulesError": "memguard.errors",
    "Size": "memguard.sizing",
    "Snapshot": "memguard.model",
    "States": "memguard.agents.states",
    "Ticket": "memguard.admission",
    "Verdict": "memguard.findings",
    "Vitals": "memguard.model",
    "cached": "memguard.caching.functions",
    "sizeof": "memguard.sizing",
}

# Hidden from type checkers: they would take __getattr__ for a promise of every name, memguard.Typo included.
if not TYPE_CHECKING:

    def __getattr__(name):
        import sys
        from importlib import import_module

        home = _HOMES.get(name)
        if home is None:
            module = sys.modules[__name__]
            raise AttributeError(f"module 'memguard' has no attribute {name!r}", name=name, obj=module)
        value = globals()[name] = getattr(import_module(home), name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
