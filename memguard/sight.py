"""Sight: which limits hold, how much is used against each, and which of them binds."""

from __future__ import annotations

import os

from memguard._core.stimuli import Looked
from memguard.errors import LimitNotFound, RulesError
from memguard.model import Event, Level, Limit
from memguard.probes.children import ChildrenProbe
from memguard.probes.gauges import Gauge, close_gauges, open_gauges, refresh_gauges
from memguard.probes.limits import find_limits
from memguard.probes.vitals import VitalsReader
from memguard.units import format_bytes, parse_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from memguard.model import Vitals
    from memguard.ports import LimitSource, Probe
    from memguard.rules import Rules

__all__ = ["Sight", "limits_from"]

# Stands in where nothing limits, so that usage is read all the same.
_NO_LIMIT = Limit(bytes=1 << 62, kind="policy", source="nothing limits this process")
# A note with a number in it could be new each time.
_NOTES_AT_MOST = 100


class Sight:
    """The gauges in force. ``look`` is the tick's reading; ``find`` and ``refresh`` run at a slow pace."""

    def __init__(
        self, *, rules: Rules, source: LimitSource, probe: Probe | None, tell: Callable[[Event], None]
    ) -> None:
        self._rules = rules
        self._source = source
        self._probe = probe
        self._tell = tell
        self._told: set[str] = set()
        self._limits: tuple[Limit, ...] | None = None
        self._gauges: tuple[Gauge, ...] = ()
        self._vitals = VitalsReader()
        self._children_bytes: int | None = None
        self.binding: Limit | None = None

    @property
    def probed(self) -> bool:
        """Whether somebody's own probe reads usage: it need not measure this process."""
        return self._probe is not None

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Every limit that is watched."""
        return tuple(gauge.limit for gauge in self._gauges if gauge.limit is not _NO_LIMIT)

    def look(self, at: float) -> Looked:
        """Read every gauge; the one with the worst ratio binds.

        Raises:
            OSError, ValueError: a gauge cannot be read. One unread gauge spoils the look, or a guard would be
                OK by accident.
        """
        worst, bound, used_bytes = -1.0, None, 0
        for gauge in self._gauges:
            used = gauge.probe.read()
            ratio = used / max(1, gauge.limit.bytes)  # a group's limit may be set to 0
            if ratio > worst:
                worst, bound, used_bytes = ratio, gauge, used
        if bound is None:
            raise ValueError("no gauge could be opened; see the events limit.note")
        limit = bound.limit
        self.binding = None if limit is _NO_LIMIT else limit
        return Looked(at, used_bytes, None if limit is _NO_LIMIT else max(1, limit.bytes), bound.probe.source)

    def room_bytes(self) -> int | None:
        """How many bytes the nearest limit is away, read now; None where nothing limits.

        Raises:
            OSError, ValueError: a gauge cannot be read.
        """
        limited = [gauge for gauge in self._gauges if gauge.limit is not _NO_LIMIT]
        return min((gauge.limit.bytes - gauge.probe.read() for gauge in limited), default=None)

    def meter(self) -> Callable[[], int]:
        """The reading that binds now, to be taken before and after an attempt, whatever binds later."""
        binding = self.binding
        for gauge in self._gauges:
            if binding is None or gauge.limit == binding:
                return gauge.probe.read
        return lambda: self.look(0.0).used_bytes

    def target_bytes(self, target: Level | float | str | None, at: float) -> int:
        """What a person means by bringing memory down to a level, a share of the limit, or bytes.

        Raises:
            RulesError: it can't be meant, or is relative to a limit and nothing limits.
        """
        if isinstance(target, str) or (isinstance(target, int) and not isinstance(target, (Level, bool))):
            try:
                return parse_bytes(target)
            except ValueError as error:
                raise RulesError(f"target={target!r} cannot be meant: {error}") from None
        self.find(at)
        limit_bytes = self.look(at).limit_bytes
        if limit_bytes is None:
            raise RulesError(f"target={target!r} needs a limit and nothing limits: give bytes, like '256MiB'")
        if target is None or isinstance(target, Level):
            return int(self._rules.leave_ratio(Level.ELEVATED if target is None else target) * limit_bytes)
        if not 0.0 <= target <= 1.0:
            raise RulesError(f"target={target!r} is no share of the limit: write 0.0 to 1.0, or bytes as an int")
        return int(target * limit_bytes)

    def find(self, at: float, *, anew: bool = False) -> None:
        """Search for the limits again and open gauges for them if they changed (or ``anew``)."""
        limits = tuple(self._source())
        if self._probe is None and os.path.exists("/proc/self/statm"):  # noqa: PTH110 - pathlib is slower
            self._children_bytes = ChildrenProbe().read()
        for note in getattr(self._source, "notes", ()):
            self._note(at, note)
        if limits == self._limits and not anew and len(self._gauges) >= len(limits):
            return
        known, old = self._limits, self._gauges
        if self._probe is not None:
            self._gauges = tuple(Gauge(limit=limit, probe=self._probe) for limit in limits or (_NO_LIMIT,))
        else:
            self._gauges = open_gauges(
                limits or (_NO_LIMIT,),
                # A fuse needs the distance exactly, not only near a rung.
                elevated_ratio=0.0 if self._rules.fuse else self._rules.elevated_ratio,
                failed=lambda limit, error: self._note(at, f"{limit.source} cannot be watched: {error}"),
            )
            close_gauges(old)
        self._limits = limits
        group, version = getattr(self._source, "group", None), getattr(self._source, "group_version", None)
        self._vitals = VitalsReader(limits, group=group, group_version=version)
        if limits != known:
            self._announce(at, limits, first=known is None)

    def _announce(self, at: float, limits: tuple[Limit, ...], *, first: bool) -> None:
        if not limits:
            text = "nothing limits this process: the guard observes only; set API_MAX_MEMORY_MB to give it a limit"
            self._tell(Event(at=at, name="limit.none", text=text))
            return
        shown = "; ".join(f"{format_bytes(limit.bytes)} ({limit.kind}) from {limit.source}" for limit in limits)
        if first:
            self._tell(Event(at=at, name="limit.found", text=shown))
        else:
            self._tell(Event(at=at, name="limit.changed", text=f"the limits are now {shown}"))

    def _note(self, at: float, text: str) -> None:
        if text not in self._told and len(self._told) < _NOTES_AT_MOST:
            self._told.add(text)
            self._tell(Event(at=at, name="limit.note", text=text))

    @property
    def notes(self) -> tuple[str, ...]:
        """Oddities about the limits, in words."""
        return tuple(sorted(self._told))

    def refresh(self, at: float) -> None:
        """Look anew at what ticks take from memory: children, page cache."""
        if self._probe is None:
            for failure in refresh_gauges(self._gauges):
                self._note(at, failure)

    def vitals(self, at: float) -> Vitals:
        """Read the vitals.

        A caller's probe that measures something else than this process may bring ``vitals(at)`` of its own.
        """
        own = getattr(self._probe, "vitals", None)
        if own is not None:
            vitals: Vitals = own(at)
            return vitals
        trees = (getattr(gauge.probe, "children_bytes", None) for gauge in self._gauges)
        seen = next((children for children in trees if children is not None), self._children_bytes)
        return self._vitals.read(at=at, children_bytes=seen)

    def close(self) -> None:
        """Give the descriptors back; ``find`` opens them again."""
        if self._probe is None:
            close_gauges(self._gauges)
        self._gauges, self._limits = (), None


class _Found:
    """The limits that the machine tells of, with a policy limit beside them."""

    def __init__(self, policy_bytes: int | None, policy_source: str) -> None:
        self._policy = policy_bytes, policy_source
        self.notes: tuple[str, ...] = ()
        self.group: str | None = None
        self.group_version: int | None = None

    def __call__(self) -> tuple[Limit, ...]:
        policy_bytes, policy_source = self._policy
        findings = find_limits(environ=os.environ, policy_bytes=policy_bytes, policy_source=policy_source)
        self.notes, self.group, self.group_version = findings.notes, findings.group, findings.group_version
        return findings.limits


def limits_from(limit: str | int | Limit | LimitSource | None, rules: Rules, *, probed: bool) -> LimitSource:
    """The limit source that ``Guard(limit=…)`` means.

    ``"auto"`` searches; an amount is a policy limit beside what the search finds (alone when the caller brings a
    probe of his own); a ``Limit`` or a source holds alone; None means that nothing limits.

    Raises:
        RulesError: an amount that is none, or 0.
        LimitNotFound: a source that finds nothing.
    """
    if limit is None:
        return lambda: ()
    if isinstance(limit, Limit):
        return _alone(limit)
    if limit == "auto":
        return _Found(rules.max_bytes, rules.origins.get("max_bytes", "keyword"))
    if isinstance(limit, (str, int)):
        try:
            amount = parse_bytes(limit)
        except (ValueError, TypeError) as error:
            raise RulesError(f"limit={limit!r} (from keyword) cannot hold: {error}") from None
        source = "the keyword limit of Guard()"
        alone = _alone(Limit(bytes=amount, kind="policy", source=source))
        return alone if probed else _Found(amount, source)
    if callable(limit):
        if not tuple(limit()):
            raise LimitNotFound(f"{limit!r} found no limit: return at least one, or pass limit=None to only observe")
        return limit
    raise RulesError(f"limit={limit!r} (from keyword) is no limit: write 'auto', '512MiB', a Limit or None")


def _alone(limit: Limit) -> LimitSource:
    if limit.bytes <= 0:
        raise RulesError(f"limit={limit.bytes} (from keyword) cannot hold: nothing fits into it; None means no limit")
    return lambda: (limit,)
