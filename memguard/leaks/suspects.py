"""From evidence to answers: what grows, who holds it, which line made it, how sure that is."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from memguard.findings import Suspect
from memguard.units import MIB, format_bytes

if TYPE_CHECKING:
    from memguard.findings import Chain, Lost, Named, Native, Site, Swelling, Trace, TypeGrowth
    from memguard.leaks.gathering import Growing

__all__ = ["Evidence", "rank"]

# Threads and tasks more than before; fewer are work under way.
_GROWN_AT_LEAST: Final = 3
# Where two explain the same growth, the program's own holder is the answer and not the library's register of it.
_LIBRARY: Final = 0.05
_CHANCE: Final = 0.01
# A line that may be chance, but of which so much stays, is better said than nothing.
_DOUBT: Final = 0.05
_STACK_BYTES: Final = 64 * 1024
# Below that, native growth may be an allocator that settles.
_SURELY_NATIVE: Final = 16 * MIB
# Growth that nobody is seen to hold is named when it is at least so much.
_WORTH_BYTES: Final = 64 * 1024
_SURELY_MADE: Final = MIB
_SITES: Final = 3
# A line explains what nobody holds when it made so much of what was to be expected of the time in which it was traced.
_EXPLAINS: Final = 0.3


class Evidence(NamedTuple):
    """What an examination gathered. ``traced_ratio`` is how much of the work in which ``lost`` came was traced."""

    swellings: tuple[Swelling, ...]
    types: tuple[TypeGrowth, ...]
    growing: tuple[Growing, ...]
    trace: Trace
    native: Native | None
    lost: Lost | None
    traced_ratio: float
    named: tuple[Named, ...]
    places: frozenset[str]
    requests: int | None
    seconds: float


def rank(evidence: Evidence) -> tuple[Suspect, ...]:
    """The answers, the most likely first."""
    rows = [*_holders(evidence), *_named(evidence), *_types(evidence), *_sites(evidence), *_lost(evidence)]
    rows += _native(evidence)
    rows.sort(key=lambda row: -row[0])
    return tuple(suspect for _, suspect in rows)


def _rate(grown: int, evidence: Evidence) -> str:
    """How fast, per request where those are counted."""
    if evidence.requests:
        each = grown / evidence.requests
        return f"{each:.2g} a request" if each < 1 or each % 1 else f"{each:.0f} a request"
    return f"{grown / max(evidence.seconds, 1e-9):.3g} a second"


def _holders(evidence: Evidence) -> list[tuple[float, Suspect]]:
    rows = []
    for one in evidence.swellings:
        if one.bound:
            continue
        library = _is_library(one.chain)
        held = one.chain.found and one.chain.kind != "C"
        sure = "sure" if held else "likely" if one.grown_bytes > _WORTH_BYTES else "possible"
        sure = "possible" if library else sure
        name = one.chain.path if one.chain.found else f"a {one.type}"
        site = one.site or _site_of_bytes(evidence, one.grown_bytes)
        words = (
            f"{name} ({one.type}) grows by {_rate(one.grown, evidence)}: {one.items[0]} to {one.items[-1]} items, of "
            f"{one.holds}, about {format_bytes(one.bytes_each)} each"
        )
        if site:
            words += f"; made at {site}"
        rows.append((
            max(one.grown_bytes, one.grown) * (_LIBRARY if library else 1.0),
            Suspect(
                kind="holder", name=name, grown=one.grown, grown_bytes=one.grown_bytes, certainty=sure, words=words,
                site=site, chain=one.chain,
            ),
        ))  # fmt: skip
    return rows


def _site_of_bytes(evidence: Evidence, grown_bytes: int) -> str:
    """The line whose survivors are beyond doubt and of about that size; "" when there is none, or several."""
    near = [site.where for site in evidence.trace.sites if site.p < _CHANCE and site.bytes * 4 > grown_bytes]
    return near[0] if len(near) == 1 else ""


def _types(evidence: Evidence) -> list[tuple[float, Suspect]]:
    rows = []
    for one in evidence.growing:
        if one.bound:
            continue
        grown_bytes = one.growth.grown * one.bytes_each
        home = one.growth.type.rpartition(".")[0].split(".")[0]
        library = _is_library(one.chain) or not home or home in sys.stdlib_module_names or home == "memguard"
        words = (
            f"{one.growth.type} grows by {_rate(one.growth.grown, evidence)}: {one.growth.before} to "
            f"{one.growth.after} alive, about {format_bytes(one.bytes_each)} each"
        )
        words += f"; one is held as {one.chain.path}" if one.chain.found else f"; holder not found: {one.chain.note}"
        site = one.sites[0] if one.sites else ""
        if site:
            words += f"; made at {site}"
        certainty = "possible" if library else "likely"
        suspect = Suspect(
            kind="type", name=one.growth.type, grown=one.growth.grown, grown_bytes=grown_bytes, certainty=certainty,
            words=words, site=site, chain=one.chain,
        )  # fmt: skip
        rows.append((max(grown_bytes, one.growth.grown) * (_LIBRARY if library else 1.0), suspect))
    return rows


def _named(evidence: Evidence) -> list[tuple[float, Suspect]]:
    """Threads and tasks that do not end hold what their frames hold; a cache without bound holds its results."""
    rows = []
    for one in evidence.named:
        if one.kind in {"thread", "task"} and one.grown >= _GROWN_AT_LEAST:
            kind = f"{one.kind}s"
            each = _STACK_BYTES if one.kind == "thread" else 4096
            words = f"{one.words} ({_rate(one.grown, evidence)})"
            suspect = Suspect(
                kind=kind, name=one.name, grown=one.grown, grown_bytes=one.grown * each, certainty="sure", words=words
            )
            rows.append((float(one.grown * each), suspect))
        elif one.kind in {"late cycles", "uncollectable"}:
            words = one.words
            suspect = Suspect(
                kind="cycles", name=one.name, grown=one.grown, grown_bytes=one.grown * 100,
                certainty="sure" if one.kind == "uncollectable" or not gc.isenabled() else "possible", words=words,
            )  # fmt: skip
            rows.append((one.grown * 100.0 * (1.0 if not gc.isenabled() else 0.1), suspect))
    return rows


def _sites(evidence: Evidence) -> list[tuple[float, Suspect]]:
    told = _told(evidence)
    # What a holder is sure of needs no second answer. A line alone is one where nobody else has any and it is much:
    # what has lived through a short window may only not have been replaced yet.
    held = any(one.chain.found for one in evidence.swellings) or any(one.chain.found for one in evidence.growing)
    loser, lost = _loser(evidence), evidence.lost
    rows = []
    for site in dict.fromkeys(filter(None, (*evidence.trace.sites[:_SITES], loser))):
        much = site.bytes >= _SURELY_MADE
        loses = lost is not None and site is loser
        if loses or (site.p < (_DOUBT if much else _CHANCE) and site.where not in told):
            certainty = "likely" if loses or (much and not held and site.p < _CHANCE) else "possible"
            words = f"what is made at {site.where} stays: {site.blocks} blocks, {format_bytes(site.bytes)}"
            score = float(site.bytes)
            if lost is not None and loses:
                words += f"; {lost.words}"
                score = float(max(site.bytes, lost.bytes))
            suspect = Suspect(
                kind="site", name=site.where, grown=site.blocks, grown_bytes=site.bytes, certainty=certainty,
                words=words, site=site.where,
            )  # fmt: skip
            rows.append((score * 0.5, suspect))
    return rows


def _loser(evidence: Evidence) -> Site | None:
    """The line that made most of what stays, if that is about as much as has come and is held by nobody."""
    told = _told(evidence)
    rest = [site for site in evidence.trace.sites if site.where not in told]
    if evidence.lost is None or not rest:
        return None
    most = max(rest, key=lambda site: site.blocks)
    return most if most.blocks >= _EXPLAINS * evidence.lost.blocks * evidence.traced_ratio > 0.0 else None


def _told(evidence: Evidence) -> frozenset[str]:
    """The lines that made what a holder holds."""
    return evidence.places.union(*(one.sites for one in evidence.growing))


def _lost(evidence: Evidence) -> list[tuple[float, Suspect]]:
    """Where the line is not known: that it is C code, and which there is."""
    lost = evidence.lost
    if lost is None or _loser(evidence) is not None:
        return []
    suspect = Suspect(
        kind="lost", name="lost references", grown=lost.blocks, grown_bytes=lost.bytes,
        certainty="likely" if lost.bytes >= _WORTH_BYTES else "possible", words=lost.words,
    )  # fmt: skip
    return [(lost.bytes * 0.4, suspect)]


def _native(evidence: Evidence) -> list[tuple[float, Suspect]]:
    native = evidence.native
    if native is None or not native.is_native:
        return []
    suspect = Suspect(
        kind="native", name="native memory", grown=0, grown_bytes=native.native_bytes,
        certainty="sure" if native.native_bytes > _SURELY_NATIVE else "likely",
        words=f"memory outside of Python grows: {native.words}"
    )  # fmt: skip
    return [(float(native.native_bytes), suspect)]


def _is_library(chain: Chain) -> bool:
    """Whether the chain starts in Python's own modules and goes through nobody else's object."""
    if chain.kind in {"C", "none", "context", "thread", "task", "frame"}:
        return False
    own = chain.root.split(".")[0]
    if own not in sys.stdlib_module_names or own == "__main__":
        return False
    inner = {link.type.split(".")[0] for link in chain.links if "." in link.type}
    return inner <= sys.stdlib_module_names
