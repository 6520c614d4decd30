"""The Prometheus text: every metric in the format that Prometheus scrapes, without its client library."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from memguard.metrics import METRICS
from memguard.sinks.meters import Meters

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from memguard.metrics import MetricRow

__all__ = ["CONTENT_TYPE", "PrometheusSink"]

# Series whose names are kept; those of holders that are gone are among them.
_KNOWN = 5000

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of ``PrometheusSink.text()``."""


class PrometheusSink(Meters):
    """Counts what a guard tells, and writes all metrics as text when it is scraped.

    Every line about memory contains "memory". ``labels`` go on every series ({"service": "chat"}).

    Raises:
        ValueError: a label's name that Prometheus does not take.
    """

    name = "prometheus"

    def __init__(self, *, labels: Mapping[str, str] | None = None) -> None:
        super().__init__()
        labels = dict(labels or {})
        for label in labels:
            if not label.isidentifier() or not label.isascii() or label.startswith("__"):
                raise ValueError(f"label {label!r} is no name that Prometheus takes: write letters, digits and _")
        self._labels = [f'{name}="{_escaped(str(value))}"' for name, value in labels.items()]
        self._known: dict[tuple[str, ...], list[str]] = {}
        self._heads = {
            row.name: (f"# HELP {row.prometheus} {row.meaning}", f"# TYPE {row.prometheus} {row.kind}")
            for row in METRICS.values()
        }

    def text(self) -> str:
        """All metrics as they are now; under a millisecond or two, from any thread."""
        lines = list[str]()
        for row in METRICS.values():
            series = list(self._spread(row) if row.kind == "histogram" else self._plain(row))
            if series:
                lines += self._heads[row.name]
                lines += series
        return "\n".join(lines) + "\n"

    def _plain(self, row: MetricRow) -> Iterator[str]:
        for values, value in self.read(row.name):
            yield f"{self._series(row, values)[0]} {value!r}"

    def _spread(self, row: MetricRow) -> Iterator[str]:
        for values, spread in self.spreads(row.name):
            sum_, count, *buckets = self._series(row, values)
            total, counts = spread.total, list(accumulate(spread.counts))
            for bucket, so_far in zip(buckets, counts, strict=True):
                yield f"{bucket} {so_far}"
            yield f"{sum_} {total!r}"
            yield f"{count} {counts[-1]}"

    def _series(self, row: MetricRow, values: tuple[str, ...]) -> Sequence[str]:
        """The names and labels of a series' lines, made once: they take more time than the numbers."""
        key = (row.name, *values)
        known = self._known.get(key)
        if known is None:
            pairs = [
                f'{name}="{_escaped(value)}"' for name, value in zip(row.labels, values, strict=True)
            ] + self._labels
            if row.kind == "histogram":
                bounds = [f'le="{bound!r}"' for bound in row.bounds] + ['le="+Inf"']
                known = [f"{row.prometheus}_sum{_braces(pairs)}", f"{row.prometheus}_count{_braces(pairs)}"]
                known += [f"{row.prometheus}_bucket{_braces([*pairs, bound])}" for bound in bounds]
            else:
                known = [f"{row.prometheus}{_braces(pairs)}"]
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[key] = known
        return known


def _braces(pairs: Sequence[str]) -> str:
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
