"""The whole configuration: one frozen value, every default with its unit and its reason.

Where a value comes from: keyword > ``MEMGUARD_<FIELD>`` > the operator's names (``API_MAX_MEMORY_MB`` …) > the
default. ``Rules.origins`` remembers which it was, field by field.
"""

from __future__ import annotations

from itertools import pairwise
from types import MappingProxyType

from memguard.errors import RulesError
from memguard.model import Level
from memguard.settings import count as _count
from memguard.settings import flag as _flag
from memguard.settings import fuse as _fuse
from memguard.settings import handover as _handover
from memguard.settings import level as _level
from memguard.settings import maintain as _maintain
from memguard.settings import mebibytes as _mebibytes
from memguard.settings import mode as _mode
from memguard.settings import percent as _percent
from memguard.units import MIB, parse_bytes, parse_group, parse_ratio, parse_seconds
from memguard.values import field, fields, replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Final, Literal

__all__ = ["Rules"]

_ENV_PREFIX: Final = "MEMGUARD_"


def _rule(
    default: object,
    why: str,
    parse: Callable[[Any], object],
    *,
    operator: tuple[str, Callable[[Any], object]] | None = None,
) -> Any:  # noqa: ANN401 - as dataclasses.field, it stands for any field's type
    return field(default=default, metadata={"why": why, "parse": parse, "operator": operator})


@value
class Rules:
    """How a guard judges and acts; immutable, checked once, as a whole.

    Raises:
        RulesError: naming the field, its value, where it came from and the mend.
    """

    mode: Literal["act", "observe"] = _rule("act", "'observe' decides and records everything and does nothing", _mode)
    max_bytes: int | None = _rule(
        None,
        "the operator's own limit for this process and its children; None: only what is found binds",
        parse_bytes,
        operator=("API_MAX_MEMORY_MB", _mebibytes),
    )
    elevated_ratio: float = _rule(
        0.70, "pressure that enters ELEVATED: memory.stat is read on every tick from here", parse_ratio
    )
    collect_ratio: float = _rule(
        0.75, "pressure above which a full collection is due, as long as the last ones paid", parse_ratio
    )
    collect_bytes: int | None = _rule(
        None,
        "the same in bytes; wins over collect_ratio",
        parse_bytes,
        operator=("API_GC_THRESHOLD_MB", _mebibytes),
    )
    warning_ratio: float = _rule(
        0.80,
        "pressure that enters WARNING: holders are shed. 20 % of 512 MiB is 215 ms of growth at 475 MB/s",
        parse_ratio,
    )
    critical_ratio: float = _rule(
        0.90, "pressure that enters CRITICAL: new work is refused; also the admission's ceiling", parse_ratio
    )
    emergency_ratio: float = _rule(
        0.95, "pressure that enters EMERGENCY: last-resort holders too. Kills start at 1.0", parse_ratio
    )
    leave_gap_ratio: float = _rule(
        0.05, "each rung is left this far below where it is entered: the hysteresis", parse_ratio
    )
    dwell_s: float = _rule(
        2.0, "a level is held at least so long before it falls; a climb is never delayed", parse_seconds
    )
    relax_s: float = _rule(
        60.0,
        "the hysteresis gap closes over this time: a release level out of reach must not latch a guard",
        parse_seconds,
    )
    blind_after_s: float = _rule(
        2.0, "failed readings keep the last level for so long, then the guard says it is blind", parse_seconds
    )
    blind_level: Level = _rule(
        Level.WARNING, "the level while blind: cautious, without refusing everybody for a broken probe", _level
    )
    pace_min_s: float = _rule(
        0.002, "shortest sleep: below it Python's thread switching (5 ms) hides any gain", parse_seconds
    )
    pace_max_s: float = _rule(0.25, "longest sleep: 4 ticks a second cost 0.01 % of a core", parse_seconds)
    pace_floor_bytes_per_s: int = _rule(
        2048 * MIB,
        "growth always reckoned with when pacing: bursts start from standstill, six threads fill 1 GB/s",
        parse_bytes,
    )
    slow_s: float = _rule(
        1.0,
        "seconds between looks at children and page cache; swap and PSI too under pressure, else with the limit",
        parse_seconds,
    )
    limit_refresh_s: float = _rule(
        5.0, "seconds between searches for the limit: pods are resized in place", parse_seconds
    )
    ask_min_bytes: int = _rule(
        1 * MIB, "smallest amount a reclaimer is asked for: less is lost in the noise of RSS", parse_bytes
    )
    ask_horizon_s: float = _rule(
        0.25, "a plan also asks for what will arrive in this time, or it never catches up", parse_seconds
    )
    useless_ratio: float = _rule(
        0.05, "an attempt that bought less than this share of what was asked backs off", parse_ratio
    )
    backoff_first_s: float = _rule(1.0, "first wait after a useless attempt; doubles each time", parse_seconds)
    backoff_max_s: float = _rule(60.0, "longest such wait: nothing is given up for good", parse_seconds)
    attempt_s: float = _rule(
        5.0, "an attempt that takes longer is overdue: the guard goes on without it", parse_seconds
    )
    gc_duty_ratio: float = _rule(
        0.05, "share of wall time that asked-for collections may stop the process", parse_ratio
    )
    gc_burst_s: float = _rule(1.0, "collection time that may be spent at once after a long quiet", parse_seconds)
    promise_s: float = _rule(
        30.0,
        "bytes promised to admitted work that readings have not shown after so long are given back: a body may never "
        "come, a cost may be overrated",
        parse_seconds,
    )
    alert_ratio: float = _rule(
        0.85,
        "sustained for alert_after_s: alert SEV-2",
        parse_ratio,
        operator=("MEMORY_ALERT_THRESHOLD", _percent),
    )
    alert_after_s: float = _rule(300.0, "how long pressure must stay above alert_ratio", parse_seconds)
    alert_critical_ratio: float = _rule(0.95, "above it: alert SEV-1 at once, the kill may be near", _percent)
    alert_forecast_s: float = _rule(3600.0, "the limit nearer than this for alert_after_s: alert SEV-2", parse_seconds)
    alert_swap_ratio: float = _rule(0.80, "more of the swap in use: alert SEV-2", _percent)
    alert_available_bytes: int = _rule(
        2048 * MIB, "less left on the machine: alert SEV-3; a quarter of machines below 8 GiB", parse_bytes
    )
    alert_available_critical_bytes: int = _rule(
        1024 * MIB, "less left on the machine: alert SEV-2; an eighth of machines below 8 GiB", parse_bytes
    )
    record_interval_s: float = _rule(
        60.0,
        "seconds between recorded readings and reports; the watch itself paces itself",
        parse_seconds,
        operator=("MEMORY_MONITOR_INTERVAL", parse_seconds),
    )
    log_json: bool = _rule(False, "whether each message to the logger is one line of JSON", _flag)  # noqa: FBT003 - as below
    pool_max_size: int = _rule(100, "default cap of an agent pool", _count, operator=("AGENT_POOL_MAX_SIZE", _count))
    state_max_bytes: int = _rule(
        10 * MIB,
        "default size limit of one belief state",
        parse_bytes,
        operator=("BELIEF_SIZE_LIMIT_MB", _mebibytes),
    )
    state_compact: bool = _rule(
        True,  # noqa: FBT003 - the field's default
        "whether states are compacted by default",
        _flag,
        operator=("BELIEF_COMPRESSION_ENABLED", _flag),
    )
    cache_maxsize: int | None = _rule(
        None, "entries that a cache of ours without limits may have; None: only bytes bound it", _count
    )
    cache_max_bytes: int | None = _rule(
        None, "bytes that all registered caches may hold together; None: the guard alone bounds them", parse_bytes
    )
    gc_interval_s: float | None = _rule(
        None, "seconds between full collections asked for by the clock; None: by pressure only", parse_seconds
    )
    leak_patience_s: float = _rule(
        3600.0,
        "growth that does not bend is called leak-like after this time: an unknown cache fills alike until it is full",
        parse_seconds,
    )
    leak_examine: bool = _rule(True, "whether growth that looks like a leak is examined once, by itself", _flag)  # noqa: FBT003 - as above
    fuse: bool | Literal["force"] = _rule(
        False,  # noqa: FBT003 - the field's default
        "whether a rolling RLIMIT_DATA turns what would not fit into a MemoryError; it may refuse what would, and some "
        "C libraries die of it: 'force' arms it beside those, too",
        _fuse,
    )
    handover: Literal["auto", "on", "off"] = _rule(
        "auto",
        "whether a worker that relief cannot help makes room for a fresh one: 'auto' where it is known who starts that "
        "one, 'on' says that somebody does (systemd's Restart=always)",
        _handover,
    )
    handover_after_s: float = _rule(
        30.0, "a hand-over is due when relief has not reached WARNING's leave level for so long", parse_seconds
    )
    handover_urgent_s: float = _rule(
        60.0, "the limit nearer than this, and nothing left to shed: it is due at once", parse_seconds
    )
    handover_window_s: float = _rule(
        600.0, "growth that looks like a leak and reaches the limit sooner: it is due before that", parse_seconds
    )
    handover_worth_ratio: float = _rule(
        0.10, "a hand-over that would free a smaller share of the limit cannot help", parse_ratio
    )
    handover_life_s: float = _rule(
        60.0, "no worker hands over younger; nor, while the limit is far, before 20 times its start-up", parse_seconds
    )
    handover_per_day: int = _rule(
        200, "so many a day go before the back-off while the limit is near, whatever looks like a leak", _count
    )
    handover_backoff_max_s: float = _rule(
        86400.0, "the wait doubles up to this while fresh workers end up where the old ones were", parse_seconds
    )
    handover_notice_s: float = _rule(
        5.0,
        "work is still done for so long after readiness turned 503, where nobody else takes it: balancers have to see",
        parse_seconds,
    )
    handover_drain_s: float = _rule(30.0, "what is under way gets so long to finish", parse_seconds)
    handover_exit_code: int = _rule(
        75, "what a process without a server's supervisor exits with: on-failure policies restart it", _count
    )
    workers: str = _rule(
        "auto",
        "whether workers under one limit act together: 'auto' where others are found, 'on', 'off', or a group's name",
        parse_group,
    )
    maintain: str = _rule(
        "expire=60s",
        "chores while memory is not short: expire, clean, census; 'off'. What is too old helps nobody; the others cost",
        _maintain,
    )
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for rule in fields(self):
            parse = rule.metadata.get("parse")
            value = getattr(self, rule.name)
            if parse is None or (value is None and rule.default is None):
                continue
            object.__setattr__(self, rule.name, self._parsed(rule.name, value, parse))
        self._check()

    def _parsed(self, name: str, value: object, parse: Callable[[Any], object]) -> object:
        try:
            return parse(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise self._wrong(name, value, str(error)) from None

    def _wrong(self, name: str, value: object, mend: str) -> RulesError:
        origin = self.origins.get(name, "keyword")
        return RulesError(f"rule {name}={value!r} (from {origin}) cannot hold: {mend}")

    def _check(self) -> None:
        climb: tuple[str, ...] = (
            "elevated_ratio",
            "collect_ratio",
            "warning_ratio",
            "critical_ratio",
            "emergency_ratio",
        )
        if self.collect_bytes is not None:
            climb = tuple(name for name in climb if name != "collect_ratio")
        for below, above in pairwise(climb):
            if getattr(self, below) >= getattr(self, above):
                raise self._wrong(above, getattr(self, above), f"it must be above {below}={getattr(self, below)}")
        above_zero = (
            "dwell_s", "pace_min_s", "pace_floor_bytes_per_s", "slow_s", "limit_refresh_s", "ask_min_bytes",
            "leave_gap_ratio", "backoff_first_s", "attempt_s", "blind_after_s", "max_bytes", "record_interval_s",
            "promise_s", "handover_life_s", "handover_drain_s",
        )  # fmt: skip
        for name in above_zero:
            if getattr(self, name) == 0:
                raise self._wrong(name, 0, "it must be above 0" + (" (None: no limit)" * (name == "max_bytes")))
        ordered = (
            ("leave_gap_ratio", "elevated_ratio"),
            ("pace_min_s", "pace_max_s"),
            ("backoff_first_s", "backoff_max_s"),
            ("handover_life_s", "handover_backoff_max_s"),
        )
        for small, large in ordered:
            if getattr(self, small) > getattr(self, large):
                raise self._wrong(small, getattr(self, small), f"it may not exceed {large}={getattr(self, large)}")

    def enter_ratio(self, level: Level) -> float:
        """The pressure at which a level is entered; 0.0 for OK."""
        return (0.0, self.elevated_ratio, self.warning_ratio, self.critical_ratio, self.emergency_ratio)[level]

    def leave_ratio(self, level: Level) -> float:
        """The pressure below which a level is left; 0.0 for OK, which is never left downwards."""
        return self.enter_ratio(level) - self.leave_gap_ratio if level else 0.0

    @classmethod
    def resolve(
        cls,
        environ: Mapping[str, str],
        overrides: Mapping[str, object] | None = None,
        *,
        base: Rules | None = None,
    ) -> Rules:
        """Rules from keywords, then ``MEMGUARD_<FIELD>``, then the operator's names, then ``base`` or the defaults.

        Empty environment values count as absent.
        """
        overrides = overrides or {}
        known = {rule.name for rule in fields(cls)} - {"origins"}
        for name in overrides:
            if name not in known:
                raise RulesError(f"rule {name!r} (from keyword) is unknown: choose one of {', '.join(sorted(known))}")
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for rule in fields(cls):
            if rule.name == "origins":
                continue
            env_name = _ENV_PREFIX + rule.name.upper()
            operator, read = rule.metadata["operator"] or ("", None)
            if rule.name in overrides:
                values[rule.name], origins[rule.name] = overrides[rule.name], "keyword"
            elif environ.get(env_name):
                values[rule.name], origins[rule.name] = environ[env_name], f"environment {env_name}"
            elif environ.get(operator):
                origins[rule.name] = f"environment {operator}"
                values[rule.name] = _read_operator(operator, environ[operator], read)
            elif base is not None:
                values[rule.name] = getattr(base, rule.name)
                origins[rule.name] = base.origins.get(
                    rule.name, "default" if values[rule.name] == rule.default else "rules"
                )
            else:
                origins[rule.name] = "default"
        return cls(**values, origins=MappingProxyType(origins))

    @classmethod
    def from_mapping(cls, settings: Mapping[str, object]) -> Rules:
        """Rules from a settings file's mapping: field names, operator names, or the older spelling.

        The older spelling writes shares as percent: ``warning_threshold=80, critical_threshold=90,
        cache_max_size=1000, max_cache_memory_mb=100, enable_gc_monitoring=True, gc_interval_seconds=60``.
        """
        operators = {
            rule.metadata["operator"][0]: (rule.name, rule.metadata["operator"][1])
            for rule in fields(cls)
            if rule.metadata.get("operator")
        }
        values: dict[str, object] = {}
        origins: dict[str, str] = {}
        gc_wanted = _read_operator("enable_gc_monitoring", settings.get("enable_gc_monitoring", True), _flag)
        for key, setting in settings.items():
            if key == "enable_gc_monitoring" or (key == "gc_interval_seconds" and not gc_wanted):
                continue
            name, read = _OLDER.get(key) or operators.get(key) or (key, None)
            if name in values:
                raise RulesError(f"rule {name} is set twice: by {origins[name]} and by {key!r}; keep one")
            values[name] = setting if read is None else _read_operator(key, setting, read)
            origins[name] = f"mapping key {key!r}"
        rules = cls.resolve({}, values)
        return replace(rules, origins=MappingProxyType({**rules.origins, **origins}))

    def explain(self) -> str:
        """Every rule, its value, where that came from and why the default is what it is; a line each."""
        lines = []
        for rule in fields(self):
            if rule.name != "origins":
                value = getattr(self, rule.name)
                shown = value.name if isinstance(value, Level) else value
                origin = self.origins.get(rule.name, "default" if value == rule.default else "keyword")
                lines.append(f"{rule.name} = {shown}  [{origin}]  {rule.metadata['why']}")
        return "\n".join(lines)


def _read_operator(name: str, value: object, read: Callable[[Any], object] | None) -> object:
    if read is None:
        return value
    try:
        return read(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise RulesError(f"{name}={value!r} cannot hold: {error}") from None


_OLDER: Final[Mapping[str, tuple[str, Callable[[Any], object] | None]]] = MappingProxyType(
    {
        "warning_threshold": ("warning_ratio", _percent),
        "critical_threshold": ("critical_ratio", _percent),
        "cache_max_size": ("cache_maxsize", None),
        "max_cache_memory_mb": ("cache_max_bytes", _mebibytes),
        "gc_interval_seconds": ("gc_interval_s", None),
    }
)
