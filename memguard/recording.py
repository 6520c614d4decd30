"""Recording: the part of a guard that remembers, raises alerts and lets sinks look; loaded when it is asked for."""

from __future__ import annotations

from memguard.model import Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from memguard.admission import Gate
    from memguard.alerts import Alert, Alerts
    from memguard.history import History, Point
    from memguard.model import GcStats, Relief, Snapshot
    from memguard.ports import Clock, Sink
    from memguard.reclaimers.collect import GcWatch
    from memguard.roster import Handle
    from memguard.rules import Rules
    from memguard.sinks.prometheus import PrometheusSink
    from memguard.sinks.sql import SqlSink
    from memguard.telling import Teller
    from memguard.watch import Watch

__all__ = ["Recording"]

# A guard that lives no longer does not pay for a past in memory.
_START_S = 60.0


class Recording:
    """Keeps a history, judges alerts, and introduces sinks to the guard."""

    rules: Rules
    gate: Gate
    _clock: Clock
    _gc_watch: GcWatch
    _teller: Teller
    _watch: Watch
    _recorder: History | None = None
    _alerts: Alerts | None = None
    _record_at: float | None = None
    _report_at: float = 0.0

    # --- the past -------------------------------------------------------------------------------------------------

    def history(self, duration: str | float = "1h", interval: str | float | None = None) -> tuple[Point, ...]:
        """What was read in the last ``duration``, in steps of ``interval`` (None: some 300), oldest first.

        A guard remembers from a minute after its start on, or from ``remember()``, which the first call here and a
        store among its sinks call. What its memory does not reach back to is read from the store, if there is one:
        a query, in this thread.

        Raises:
            ValueError: no durations, or an interval that is longer than the duration.
        """
        from memguard.history import steps  # noqa: PLC0415 - see above
        from memguard.units import parse_seconds  # noqa: PLC0415

        duration_s = parse_seconds(duration)
        interval_s = steps(duration_s, None if interval is None else parse_seconds(interval))
        recorder = self.remember()
        points = recorder.points(duration_s, interval_s)
        store = self.store
        if store is None or recorder.reach_s >= duration_s:
            return points
        return (*_stored(store, duration_s, points[0].span_s if points else interval_s, points), *points)

    def remember(self) -> History:
        """Remember what is read from now on, and tell ``reading.recorded`` every ``record_interval_s``; the memory."""
        if self._recorder is None:
            from memguard.history import History  # noqa: PLC0415

            made: History = vars(self).setdefault("_recorder", History(clock=self._clock))
            if self._keep not in self._watch.shown:
                self._watch.shown = (*self._watch.shown, self._keep)
            return made
        return self._recorder

    def _keep(self, snapshot: Snapshot) -> None:
        recorder, reading = self._recorder, snapshot.reading
        if recorder is None or reading is None:
            return
        recorder.show(snapshot)
        if snapshot.at >= self._report_at:
            self._report_at = snapshot.at + self.rules.record_interval_s
            self._teller.tell(_report(snapshot))

    @property
    def store(self) -> SqlSink | None:
        """The first store among the sinks."""
        found: Iterable[SqlSink] = (sink for sink in self._teller.sinks if hasattr(sink, "averages"))  # type: ignore[misc]
        return next(iter(found), None)

    # --- alerts ---------------------------------------------------------------------------------------------------

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """The alerts that are raised and not over, with the numbers of the last look."""
        return () if self._alerts is None else self._alerts.now(self._watch.snapshot)

    def _alarm(self, snapshot: Snapshot) -> None:
        """Have alerts judged, from the first sign of trouble on: a calm guard does not load what judges them."""
        try:
            if self._record_at is None:
                self._record_at = snapshot.at + _START_S
            elif self._recorder is None and snapshot.at >= self._record_at and not self._teller.inline:
                self.remember()
            if self._alerts is None:
                if self._well(snapshot):
                    return
                from memguard.alerts import Alerts  # noqa: PLC0415

                tell, running = self._teller.tell, self.gate.labels
                self._alerts = Alerts(rules=self.rules, tell=tell, running=running, ago=self._ago)
            elif self._alerts.calm and self._well(snapshot):
                return
            self._alerts.show(snapshot)
        except Exception as error:  # noqa: BLE001 - a tick goes on; this part of it ends
            self._watch.shown = tuple(show for show in self._watch.shown if show != self._alarm)
            self.tell("guard.fault", f"alerts are judged no more: {type(error).__name__}: {error}")

    def _ago(self, seconds: float) -> float | None:
        return None if self._recorder is None else self._recorder.ago(seconds)

    def _well(self, snapshot: Snapshot) -> bool:
        """Whether nothing is near any alert."""
        rules, vitals, forecast = self.rules, snapshot.vitals, snapshot.forecast
        if snapshot.level or snapshot.pressure > rules.alert_ratio:
            return False
        if forecast is not None and forecast < rules.alert_forecast_s:
            return False
        if vitals is None:
            return True
        available, swap, used = vitals.available_bytes, vitals.swap_total_bytes, vitals.swap_used_bytes
        scarce = available is not None and available < rules.alert_available_bytes
        swapped = bool(swap and used) and (used or 0) > rules.alert_swap_ratio * (swap or 0)
        return not scarce and not swapped

    # --- sinks ----------------------------------------------------------------------------------------------------

    def sink(self, sink: Sink) -> Handle:
        """Tell this one every event too, from now on, until the handle is closed."""
        from memguard.roster import Handle  # noqa: PLC0415

        self._teller.sinks = (*self._teller.sinks, sink)
        self._introduce((sink,))

        def close() -> None:
            self._teller.sinks = tuple(known for known in self._teller.sinks if known is not sink)

        name = str(getattr(sink, "name", type(sink).__name__))
        return Handle(name, close=close, alive=lambda: any(known is sink for known in self._teller.sinks))

    @property
    def exposition(self) -> PrometheusSink:
        """What writes the Prometheus text; the first call adds it to the sinks, and its counters begin there."""
        found = next((sink for sink in self._teller.sinks if getattr(sink, "name", "") == "prometheus"), None)
        if found is None:
            from memguard.sinks.prometheus import PrometheusSink  # noqa: PLC0415

            found = PrometheusSink()
            self.sink(found)
        made: PrometheusSink = found  # type: ignore[assignment]
        return made

    def _introduce(self, sinks: Iterable[Sink]) -> None:
        """Let sinks that look by themselves look, and remember for those that write it down."""
        for sink in sinks:
            attach = getattr(sink, "attach", None)
            if attach is not None:
                attach(self)
            if hasattr(sink, "averages"):
                self.remember()

    def _forget_records(self) -> None:
        """In a forked child: what was read of the parent is not ours."""
        self._report_at = 0.0
        for kept in (self._recorder, self._alerts):
            if kept is not None:
                kept.forget()

    def on_relief(self, hear: Callable[[Relief], object]) -> None:
        """Call this with every relief that the guard's thread has measured, on that thread; it must cost microseconds.

        Those by hand (``collect``, ``trim``) are not among them.
        """

        def safely(relief: Relief) -> None:
            try:
                hear(relief)
            except Exception as error:  # noqa: BLE001 - the machine has to hear of the relief, too
                self._watch.heard = tuple(known for known in self._watch.heard if known is not safely)
                self.tell("guard.fault", f"a sink hears of no more reliefs: {type(error).__name__}: {error}")

        self._watch.heard = (*self._watch.heard, safely)

    # --- what sinks look at ---------------------------------------------------------------------------------------

    def tell(self, name: str, text: str, **attributes: str | float | bool) -> None:
        """Tell the sinks an event of the table ``memguard.telemetry.EVENTS``; never waits."""
        self._teller.tell(Event(at=self._clock(), name=name, text=text, attributes=attributes))

    def now(self) -> float:
        """The present instant of the guard's clock, in which every ``at`` is."""
        return self._clock()

    @property
    def gc_stats(self) -> GcStats:
        """What Python's garbage collector did since the guard was started."""
        return self._gc_watch.stats()

    @property
    def waiting(self) -> int:
        """How many wait at the gate for room."""
        return self.gate.waiting

    @property
    def dropped_events(self) -> int:
        """How many events a slow sink did not get."""
        return self._teller.dropped

    @property
    def sink_failures(self) -> Mapping[str, int]:
        """How many calls of each sink raised."""
        return dict(self._teller.failures)


def _report(snapshot: Snapshot) -> Event:
    from memguard.units import format_bytes  # noqa: PLC0415 - as above

    reading, limit, vitals = snapshot.reading, snapshot.limit, snapshot.vitals
    used = 0 if reading is None else reading.used_bytes
    known: dict[str, str | float | None] = {
        "used_bytes": used,
        "limit_bytes": None if limit is None else limit.bytes,
        "pressure": None if limit is None else round(snapshot.pressure, 4),
        "level": snapshot.level.name,
        "forecast_s": snapshot.forecast,
        "rss_bytes": None if vitals is None else vitals.rss_bytes,
        "available_bytes": None if vitals is None else vitals.available_bytes,
        "running": snapshot.running,
        "refusals": snapshot.refusals,
    }
    of = "no limit" if limit is None else format_bytes(limit.bytes)
    attributes = {name: value for name, value in known.items() if value is not None}
    text = f"{format_bytes(used)} of {of} used ({snapshot.level.name.lower()})"
    return Event(at=snapshot.at, name="reading.recorded", text=text, attributes=attributes)


def _stored(store: SqlSink, duration_s: float, step_s: float, known: tuple[Point, ...]) -> Iterable[Point]:
    """What the store knows of the time before."""
    from memguard.history import Point  # noqa: PLC0415 - as above
    from memguard.sinks.sql import StoreError  # noqa: PLC0415
    from memguard.units import MIB  # noqa: PLC0415

    try:
        found = store.averages(duration_s, step_s)
    except StoreError:  # it has told of that itself; what is in memory is known all the same
        return ()
    return [
        Point(
            unix_s=row.unix_s,
            span_s=step_s,
            mean_bytes=row.mean_mb * MIB,
            min_bytes=int(row.min_mb * MIB),
            max_bytes=int(row.max_mb * MIB),
            last_bytes=int(row.mean_mb * MIB),
            count=row.rows,
            limit_bytes=None if row.limit_mb is None else int(row.limit_mb * MIB),
        )
        for row in found
        if not known or row.unix_s < known[0].unix_s
    ]
