"""What objects refer to, as the collector sees it, without asking modules.

``gc.get_referents`` takes hold of whatever it is shown. The module ``_asyncio`` (CPython 3.12) shows its free list too:
dead objects, which then die twice, and the interpreter crashes some time later. So no module is ever asked; what Python
code puts into one is in its namespace, which is an object of its own.
"""

from __future__ import annotations

import gc
from itertools import compress, repeat
from operator import is_not
from types import ModuleType
from typing import TYPE_CHECKING, Any

from memguard.leaks.names import module_dict

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["referents", "referents_of_all"]


def referents(thing: object) -> list[Any]:
    """What an object refers to directly; of a module its namespace."""
    if issubclass(type(thing), ModuleType):
        names = module_dict(thing)
        return [] if names is None else [names]
    return gc.get_referents(thing)


def referents_of_all(some: Sequence[Any]) -> list[Any]:
    """What any of these refers to directly, modules left out; all of it in C."""
    return gc.get_referents(*compress(some, map(is_not, map(type, some), repeat(ModuleType))))
