"""What requests cost: bytes per route, predicted from what its requests held before.

The mean of a route comes from ``_core.credit``, its spread from requests that ran alone. Pure: whoever looks hands in
the time.
"""

from __future__ import annotations

from array import array

from memguard.units import KIB, MIB
from memguard.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["COLD_RATIO", "SMALL_BODY_BYTES", "Costs", "Estimate", "Route", "RouteCost", "shape"]

COLD_RATIO = 8
"""What a body's byte is taken to need before its route is known: json.loads makes 6 to 13 times a body's size."""

SMALL_BODY_BYTES = 64 * KIB
"""Smaller bodies count with the request: parsed, they are less than a reading's noise."""

# Requests that were seen before an estimate counts: before that one neighbour spoils it.
_TRUSTED = 10
# Peaks of requests that ran alone, of which the 95th percentile is taken.
_PEAKS = 64
_PEAKS_TRUSTED = 8
_QUANTILE = 0.95
# The bounds of a measured spread.
_SPREAD_MIN, _SPREAD_MAX = 0.75, 4.0
# How fast the mean life of a route's requests follows.
_LIFE_WEIGHT = 0.1
# A route that was not seen for so long leaves a full table for a new one.
_STALE_S = 600.0
# Paths as they came, each with its shape: one entry is some 200 bytes.
_LABELS_AT_MOST = 2048
_LABEL_AT_MOST = 200
_SHAPES_AT_MOST = 1024
_SEGMENTS_AT_MOST = 8
_LONG_SEGMENT = 24
_CODE_SEGMENT = 8

OVERFLOW = "(other routes)"


class Estimate:
    """What one request of a route holds at its peak, in bytes per unit (a request, or a MiB of its body)."""

    __slots__ = ("_peaks", "_peaks_seen", "early", "life_s", "looks", "mean_bytes", "requests", "sure", "unit_bytes")

    def __init__(self) -> None:
        self.mean_bytes: float = 0.0
        self.unit_bytes: float = 0.0
        self.requests: int = 0
        self.looks: int = 0
        self.life_s: float | None = None
        self.early: bool = False
        self.sure: bool = False
        self._peaks = array("f")
        self._peaks_seen = 0

    @property
    def fresh(self) -> bool:
        """Whether too few requests were seen, or at too few looks, to say anything."""
        return self.requests < _TRUSTED or self.looks < _TRUSTED

    @property
    def trusted(self) -> bool:
        """Whether enough was seen, and it is more than chance."""
        return self.sure and not self.fresh

    def ended(self, life_s: float) -> None:
        """A request was seen to its end."""
        known = self.life_s
        self.life_s = life_s if known is None else known + _LIFE_WEIGHT * (life_s - known)

    def alone(self, peak_ratio: float) -> None:
        """A request that ran alone had a peak of so many times the mean."""
        if len(self._peaks) < _PEAKS:
            self._peaks.append(peak_ratio)
        else:
            self._peaks[self._peaks_seen % _PEAKS] = peak_ratio
        self._peaks_seen += 1

    def moved(self, mean_bytes: float, spread: float, *, sure: bool) -> None:
        """The mean is another now, and may or may not be chance; ``spread`` holds until enough requests ran alone."""
        self.sure = sure
        self.looks += 1
        self.mean_bytes = mean_bytes
        self.unit_bytes = mean_bytes * self._spread(spread)

    def _spread(self, spread: float) -> float:
        """The 95th percentile of peaks in means."""
        if len(self._peaks) < _PEAKS_TRUSTED:
            return spread
        ranked = sorted(self._peaks)
        return min(_SPREAD_MAX, max(_SPREAD_MIN, ranked[int(_QUANTILE * (len(ranked) - 1))]))


class Route:
    """One route's estimates: requests without a large body, and bodies."""

    __slots__ = ("body", "flat", "name", "seen_at")

    def __init__(self, name: str) -> None:
        self.name: str = name
        self.seen_at: float = 0.0
        self.flat: Estimate = Estimate()
        self.body: Estimate = Estimate()

    @property
    def ratio(self) -> float:
        """Bytes that a byte of a body needs."""
        return self.body.unit_bytes / MIB if self.body.trusted else float(COLD_RATIO)

    def load(self, body_bytes: int) -> tuple[Estimate, float]:
        """The estimate that a request with such a body is counted under, and as how many units."""
        return (self.body, body_bytes / MIB) if body_bytes > SMALL_BODY_BYTES else (self.flat, 1.0)

    def guesses(self, body_bytes: int) -> bool:
        """Whether what it predicts for such a body is a guess, for want of requests."""
        return body_bytes > SMALL_BODY_BYTES and not self.body.trusted

    def predict(self, body_bytes: int) -> int | None:
        """Bytes that a request will need; None when nothing is known about it."""
        if body_bytes > SMALL_BODY_BYTES:
            return int(self.ratio * body_bytes)
        return int(self.flat.unit_bytes) or None if self.flat.trusted else None

    def __repr__(self) -> str:
        return f"<Route {self.name} {self.flat.unit_bytes / MIB:.1f} MiB + {self.ratio:.1f} x body>"


@value
class RouteCost:
    """What is known of a route: bytes of a request without a large body, and bytes per byte of a body.

    Both are 95th percentiles of peaks; None as long as too few requests were seen to go by.
    """

    name: str
    requests: int
    request_bytes: int | None
    body_ratio: float | None


class Costs:
    """Routes by their shapes, bounded: the one not seen for longest makes room, or all others share one row."""

    def __init__(self, *, at_most: int = 256) -> None:
        self._at_most = at_most
        self._routes: dict[str, Route] = {}
        self._shapes: dict[str, Route] = {}
        self._labels: dict[str, Route] = {}
        self._overflow = Route(OVERFLOW)

    def __len__(self) -> int:
        return len(self._routes)

    def routes(self) -> tuple[Route, ...]:
        """Every route that is known by itself."""
        return tuple(self._routes.values())

    def table(self) -> tuple[RouteCost, ...]:
        """What is known of every route, dearest first."""
        rows = [
            RouteCost(
                name=route.name,
                requests=route.flat.requests + route.body.requests,
                request_bytes=int(route.flat.unit_bytes) if route.flat.trusted else None,
                body_ratio=route.ratio if route.body.trusted else None,
            )
            for route in self.routes()
        ]
        return tuple(sorted(rows, key=lambda row: (-(row.request_bytes or 0), row.name)))

    def route(self, label: str, at: float) -> Route:
        """The route of "GET /users/7", as far as it is known: a template's, or that of all paths of this shape."""
        route = self._labels.get(label)
        if route is None:
            form = shape(label)
            route = self._shapes.get(form)
            if route is None:
                route = self._row(form, at)
                if route is not self._overflow:
                    _bounded(self._shapes, form, route, _SHAPES_AT_MOST)
            self._label(label, route)
        if route is not self._overflow:
            route.seen_at = at
        return route

    def template(self, label: str, template: str, at: float) -> Route:
        """Routing has shown that this path belongs to a template: what was learned of its shape goes along."""
        known = self._labels.get(label)
        if known is not None and known.name == template:
            return known
        form = shape(label)
        old = self._shapes.get(form)
        route = self._routes.get(template)
        if route is None and old is not None and old.name == form and old is not self._overflow:
            self._routes.pop(form, None)
            old.name = template
            self._routes[template] = route = old
        elif route is None:
            route = self._row(template, at)
        elif old is not None and old.name == form:
            self._routes.pop(form, None)
        _bounded(self._shapes, form, route, _SHAPES_AT_MOST)
        self._label(label, route)
        return route

    def _label(self, label: str, route: Route) -> None:
        if len(label) <= _LABEL_AT_MOST:
            _bounded(self._labels, label, route, _LABELS_AT_MOST)

    def _row(self, name: str, at: float) -> Route:
        route = self._routes.get(name)
        if route is not None:
            return route
        if len(self._routes) >= self._at_most and not self._dropped(self._routes.values(), at):
            return self._overflow
        route = self._routes[name] = Route(name)
        route.seen_at = at
        return route

    def _dropped(self, routes: Iterable[Route], at: float) -> bool:
        """Whether a stale route could leave."""
        stalest = min(tuple(routes), key=lambda route: route.seen_at)
        if at - stalest.seen_at < _STALE_S:
            return False
        del self._routes[stalest.name]
        for table in (self._shapes, self._labels):
            for key in [key for key, route in tuple(table.items()) if route is stalest]:
                table.pop(key, None)
        return True


def _bounded(table: dict[str, Route], key: str, route: Route, at_most: int) -> None:
    if len(table) >= at_most and key not in table:
        for oldest in tuple(table)[: at_most // 4]:
            table.pop(oldest, None)
    table[key] = route


def shape(label: str) -> str:
    """A path with what looks like an id taken out: "GET /users/7/posts" → "GET /users/#/posts".

    >>> shape("POST /agents/0f8fad5b-d9cb-469f-a165-70867728950e")
    'POST /agents/#'
    """
    method, blank, path = label.partition(" ")
    segments = path.split("/")
    if len(segments) > _SEGMENTS_AT_MOST:
        segments = [*segments[:_SEGMENTS_AT_MOST], "…"]
    return method[:_LONG_SEGMENT] + blank + "/".join("#" if _is_id(segment) else segment for segment in segments)


def _is_id(segment: str) -> bool:
    if len(segment) > _LONG_SEGMENT or segment.isdigit():
        return True
    return len(segment) >= _CODE_SEGMENT and any(letter.isdigit() for letter in segment)
