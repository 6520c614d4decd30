"""Rules: every value is checked, knows where it came from, and is refused in words that name the mend."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.errors import RulesError
from memguard.model import Level
from memguard.rules import Rules
from memguard.units import MIB

_FIELDS = [rule for rule in dataclasses.fields(Rules) if rule.metadata]
_NAMES = [rule.name for rule in _FIELDS]
_OPERATORS = [rule.metadata["operator"][0] for rule in _FIELDS if rule.metadata["operator"]]


# --- defaults -------------------------------------------------------------------------------------------------------


def test_defaults() -> None:
    """The ladder and the operator's values are those that the front door promises."""
    rules = Rules()
    assert [rules.enter_ratio(level) for level in Level] == [0.0, 0.70, 0.80, 0.90, 0.95]
    assert [round(rules.leave_ratio(level), 9) for level in Level] == [0.0, 0.65, 0.75, 0.85, 0.90]
    assert (rules.collect_ratio, rules.alert_ratio, rules.alert_after_s) == (0.75, 0.85, 300.0)
    assert (rules.record_interval_s, rules.pool_max_size, rules.state_max_bytes) == (60.0, 100, 10 * MIB)
    assert (rules.state_compact, rules.mode, rules.max_bytes) == (True, "act", None)


@pytest.mark.parametrize("name", _NAMES)
def test_every_default_has_a_reason(name: str) -> None:
    """Each rule says why its default is what it is."""
    assert len(Rules.__dataclass_fields__[name].metadata["why"]) > 15


def test_frozen_and_equal() -> None:
    """Rules do not change, and two are equal when their values are, wherever these came from."""
    rules = Rules(critical_ratio=0.92)
    with pytest.raises(dataclasses.FrozenInstanceError):
        rules.critical_ratio = 0.5  # type: ignore[misc]
    assert rules == Rules.resolve({"MEMGUARD_CRITICAL_RATIO": "92%"})
    assert rules != Rules()


def test_human_spellings_are_read_once() -> None:
    """What people write becomes bytes, seconds, shares and levels when the rules are made."""
    rules: Any = Rules(
        max_bytes="512MiB",  # type: ignore[arg-type]
        critical_ratio="92%",  # type: ignore[arg-type]
        dwell_s="250ms",  # type: ignore[arg-type]
        blind_level="critical",  # type: ignore[arg-type]
        state_compact="off",  # type: ignore[arg-type]
    )
    assert (rules.max_bytes, rules.critical_ratio, rules.dwell_s) == (512 * MIB, 0.92, 0.25)
    assert rules.blind_level is Level.CRITICAL
    assert rules.state_compact is False


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "mend"),
    [
        ("max_bytes", 0, "above 0 (None: no limit)"),
        ("max_bytes", -1, "negative"),
        ("max_bytes", "512 MB", "remove the blank"),
        ("max_bytes", "90%", "write bytes like '512MiB'"),
        ("max_bytes", "512M", "ambiguous"),
        ("max_bytes", 1.5, "int or text"),
        ("max_bytes", 1 << 63, "use None for no limit"),
        ("critical_ratio", 1.2, "between 0 and 1"),
        ("critical_ratio", 90, "write 90 percent as '90%' or 0.9"),
        ("emergency_ratio", "101%", "between 0 and 1"),
        ("critical_ratio", None, ""),
        ("dwell_s", -1, "0 seconds or more"),
        ("dwell_s", 0, "above 0"),
        ("dwell_s", "soon", "'250ms'"),
        ("pace_min_s", 0, "above 0"),
        ("mode", "off", "'act' or 'observe'"),
        ("blind_level", "PANIC", "OK, ELEVATED, WARNING, CRITICAL, EMERGENCY"),
        ("blind_level", 9, "OK, ELEVATED"),
        ("state_compact", "perhaps", "'true' or 'false'"),
        ("pool_max_size", -1, "whole number"),
        ("pool_max_size", 1.5, "whole number"),
        ("pool_max_size", float("inf"), ""),
        ("pool_max_size", "many", ""),
        ("leave_gap_ratio", 0, "above 0"),
        ("leave_gap_ratio", 0.8, "may not exceed elevated_ratio"),
        ("pace_min_s", 5, "may not exceed pace_max_s"),
        ("backoff_first_s", 120, "may not exceed backoff_max_s"),
    ],
)
def test_wrong_values(name: str, value: object, mend: str) -> None:
    """A value that cannot be meant is refused with its name, the value, its source and the mend."""
    with pytest.raises(RulesError) as caught:
        Rules.resolve({}, {name: value})
    text = str(caught.value)
    assert f"rule {name}=" in text
    assert "(from keyword)" in text
    assert mend in text


@pytest.mark.parametrize(
    ("changes", "both"),
    [
        ({"elevated_ratio": 0.85}, ("elevated_ratio=0.85", "collect_ratio=0.75")),
        ({"warning_ratio": 0.92}, ("warning_ratio=0.92", "critical_ratio=0.9")),
        ({"critical_ratio": 0.80}, ("critical_ratio=0.8", "warning_ratio=0.8")),
        ({"emergency_ratio": 0.5}, ("emergency_ratio=0.5", "critical_ratio=0.9")),
        ({"collect_ratio": 0.69}, ("collect_ratio=0.69", "elevated_ratio=0.7")),
    ],
)
def test_rungs_out_of_order(changes: dict[str, float], both: tuple[str, str]) -> None:
    """Rungs climb; the refusal names both rungs and their values."""
    with pytest.raises(RulesError) as caught:
        Rules.resolve({}, changes)
    for part in both:
        assert part in str(caught.value)


def test_collect_bytes_frees_the_ratio() -> None:
    """A collection threshold in bytes wins, so the ratio it replaces need not fit the ladder."""
    assert Rules(collect_bytes=100 * MIB, elevated_ratio=0.78).collect_bytes == 100 * MIB


def test_unknown_rule() -> None:
    """A misspelt keyword is refused, and the right names are listed."""
    with pytest.raises(RulesError, match=r"'critical' \(from keyword\) is unknown: choose one of .*critical_ratio"):
        Rules.resolve({}, {"critical": 0.9})


# --- where values come from -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "overrides", "value", "origin"),
    [
        ({}, {}, None, "default"),
        ({"API_MAX_MEMORY_MB": "100"}, {}, 100 * MIB, "environment API_MAX_MEMORY_MB"),
        (
            {"API_MAX_MEMORY_MB": "100", "MEMGUARD_MAX_BYTES": "200MiB"},
            {},
            200 * MIB,
            "environment MEMGUARD_MAX_BYTES",
        ),
        ({"API_MAX_MEMORY_MB": "100", "MEMGUARD_MAX_BYTES": "200MiB"}, {"max_bytes": "300MiB"}, 300 * MIB, "keyword"),
        ({"API_MAX_MEMORY_MB": "", "MEMGUARD_MAX_BYTES": ""}, {}, None, "default"),
        ({"API_MAX_MEMORY_MB": "100"}, {"max_bytes": None}, None, "keyword"),
    ],
)
def test_precedence(environ: dict[str, str], overrides: dict[str, object], value: int | None, origin: str) -> None:
    """Keyword, then MEMGUARD_<FIELD>, then the operator's name, then the default; empty counts as absent."""
    rules = Rules.resolve(environ, overrides)
    assert rules.max_bytes == value
    assert rules.origins["max_bytes"] == origin


@pytest.mark.parametrize(
    ("operator", "text", "name", "value"),
    [
        ("API_MAX_MEMORY_MB", "512", "max_bytes", 512 * MIB),
        ("API_MAX_MEMORY_MB", "0.5", "max_bytes", MIB // 2),
        ("API_GC_THRESHOLD_MB", "384", "collect_bytes", 384 * MIB),
        ("MEMORY_ALERT_THRESHOLD", "0.9", "alert_ratio", 0.9),
        ("MEMORY_ALERT_THRESHOLD", "90", "alert_ratio", 0.9),
        ("MEMORY_ALERT_THRESHOLD", "90%", "alert_ratio", 0.9),
        ("MEMORY_MONITOR_INTERVAL", "30", "record_interval_s", 30.0),
        ("AGENT_POOL_MAX_SIZE", "50", "pool_max_size", 50),
        ("BELIEF_SIZE_LIMIT_MB", "5", "state_max_bytes", 5 * MIB),
        ("BELIEF_COMPRESSION_ENABLED", "false", "state_compact", False),
    ],
)
def test_operators_names(operator: str, text: str, name: str, value: object) -> None:
    """The names that operators already use mean what they always meant."""
    rules = Rules.resolve({operator: text})
    assert getattr(rules, name) == value
    assert rules.origins[name] == f"environment {operator}"


def test_all_operators_names_are_known() -> None:
    """No operator's name of the front door was forgotten."""
    assert sorted(_OPERATORS) == [
        "AGENT_POOL_MAX_SIZE",
        "API_GC_THRESHOLD_MB",
        "API_MAX_MEMORY_MB",
        "BELIEF_COMPRESSION_ENABLED",
        "BELIEF_SIZE_LIMIT_MB",
        "MEMORY_ALERT_THRESHOLD",
        "MEMORY_MONITOR_INTERVAL",
    ]


@pytest.mark.parametrize(
    ("environ", "parts"),
    [
        ({"API_MAX_MEMORY_MB": "0"}, ("API_MAX_MEMORY_MB='0'", "above 0")),
        ({"API_MAX_MEMORY_MB": "-5"}, ("API_MAX_MEMORY_MB='-5'", "above 0")),
        ({"API_MAX_MEMORY_MB": "512 MB"}, ("API_MAX_MEMORY_MB='512 MB'",)),
        ({"API_MAX_MEMORY_MB": "nan"}, ("API_MAX_MEMORY_MB='nan'", "above 0")),
        ({"API_MAX_MEMORY_MB": "inf"}, ("API_MAX_MEMORY_MB='inf'", "above 0")),
        ({"API_MAX_MEMORY_MB": "1" + "0" * 40}, ("environment API_MAX_MEMORY_MB", "more than any machine")),
        ({"MEMORY_ALERT_THRESHOLD": "850"}, ("MEMORY_ALERT_THRESHOLD='850'", "between 0 and 1")),
        ({"MEMGUARD_MAX_BYTES": "90%"}, ("environment MEMGUARD_MAX_BYTES", "max_bytes='90%'", "share")),
        ({"MEMGUARD_MAX_BYTES": "512 MB"}, ("environment MEMGUARD_MAX_BYTES", "remove the blank")),
        ({"MEMGUARD_CRITICAL_RATIO": "1.5"}, ("environment MEMGUARD_CRITICAL_RATIO", "between 0 and 1")),
        ({"MEMGUARD_EMERGENCY_RATIO": "0.2"}, ("environment MEMGUARD_EMERGENCY_RATIO", "above critical_ratio")),
        ({"MEMGUARD_MODE": "off"}, ("environment MEMGUARD_MODE", "'observe'")),
    ],
)
def test_wrong_environment(environ: dict[str, str], parts: tuple[str, ...]) -> None:
    """A wrong variable is refused by its own name, with what it held and the mend."""
    with pytest.raises(RulesError) as caught:
        Rules.resolve(environ)
    for part in parts:
        assert part in str(caught.value)


def test_base_rules() -> None:
    """Given rules stand below the environment and keywords, and keep their origins."""
    base = Rules(critical_ratio=0.91, warning_ratio=0.81)
    rules = Rules.resolve({"MEMGUARD_CRITICAL_RATIO": "0.92"}, {"dwell_s": 3}, base=base)
    assert (rules.warning_ratio, rules.critical_ratio, rules.dwell_s) == (0.81, 0.92, 3.0)
    assert rules.origins["warning_ratio"] == "rules"
    assert rules.origins["critical_ratio"] == "environment MEMGUARD_CRITICAL_RATIO"
    assert rules.origins["elevated_ratio"] == "default"
    again = Rules.resolve({}, base=rules)
    assert again == rules
    assert again.origins["critical_ratio"] == "environment MEMGUARD_CRITICAL_RATIO"


@pytest.mark.parametrize("name", [rule.name for rule in _FIELDS if rule.default is not None])
def test_every_rule_has_an_environment_name(name: str) -> None:
    """What a default prints can be set back through MEMGUARD_<FIELD>."""
    default = getattr(Rules(), name)
    text = default.name if isinstance(default, Level) else str(default)
    rules = Rules.resolve({f"MEMGUARD_{name.upper()}": text})
    assert getattr(rules, name) == default
    assert rules.origins[name] == f"environment MEMGUARD_{name.upper()}"


# --- mappings -------------------------------------------------------------------------------------------------------


def test_older_spelling() -> None:
    """The older settings file is read: shares in percent, the interval only when collections were wanted."""
    older = {
        "warning_threshold": 80,
        "critical_threshold": 90,
        "cache_max_size": 1000,
        "max_cache_memory_mb": 100,
        "enable_gc_monitoring": True,
        "gc_interval_seconds": 60,
    }
    rules = Rules.from_mapping(older)
    assert (rules.warning_ratio, rules.critical_ratio) == (0.80, 0.90)
    assert (rules.cache_maxsize, rules.cache_max_bytes, rules.gc_interval_s) == (1000, 100 * MIB, 60.0)
    assert rules.origins["warning_ratio"] == "mapping key 'warning_threshold'"
    assert rules.origins["emergency_ratio"] == "default"
    for off in (False, "false", 0):
        assert Rules.from_mapping({**older, "enable_gc_monitoring": off}).gc_interval_s is None


def test_mapping_of_every_spelling() -> None:
    """Field names and operators' names are read as well."""
    rules = Rules.from_mapping({"dwell_s": "3s", "API_MAX_MEMORY_MB": 64})
    assert (rules.dwell_s, rules.max_bytes) == (3.0, 64 * MIB)
    assert rules.origins["max_bytes"] == "mapping key 'API_MAX_MEMORY_MB'"


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"warning_threshold": 800}, ("warning_threshold=800", "between 0 and 1")),
        ({"max_cache_memory_mb": 0}, ("max_cache_memory_mb=0", "above 0")),
        ({"warning_threshold": 95}, ("warning_ratio=0.95", "critical_ratio")),
        ({"warning_treshold": 80}, ("'warning_treshold'", "unknown")),
        ({"warning_threshold": 80, "warning_ratio": 0.8}, ("warning_ratio is set twice", "keep one")),
        ({"cache_max_size": "many"}, ("cache_maxsize='many'",)),
        ({"enable_gc_monitoring": "perhaps"}, ("perhaps", "true")),
    ],
)
def test_wrong_mapping(settings: dict[str, object], parts: tuple[str, ...]) -> None:
    """A wrong settings file is refused by the key that is wrong."""
    with pytest.raises(RulesError) as caught:
        Rules.from_mapping(settings)
    for part in parts:
        assert part in str(caught.value)


# --- explain --------------------------------------------------------------------------------------------------------


def test_explain() -> None:
    """A line per rule: value, where it came from, why."""
    rules = Rules.resolve({"API_MAX_MEMORY_MB": "512"}, {"critical_ratio": 0.92})
    lines = rules.explain().splitlines()
    assert [line.split(" = ")[0] for line in lines] == _NAMES
    by_name = dict(zip(_NAMES, lines, strict=True))
    assert "536870912  [environment API_MAX_MEMORY_MB]" in by_name["max_bytes"]
    assert "0.92  [keyword]" in by_name["critical_ratio"]
    assert "WARNING  [default]" in by_name["blind_level"]
    for rule in _FIELDS:
        assert rule.metadata["why"] in by_name[rule.name]


def test_explain_made_by_hand() -> None:
    """Rules that nobody resolved tell what was given from what was not."""
    text = Rules(critical_ratio=0.92).explain()
    assert "critical_ratio = 0.92  [keyword]" in text
    assert "warning_ratio = 0.8  [default]" in text


# --- any input ------------------------------------------------------------------------------------------------------

_anything = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.from_regex(r"[0-9]{1,400}(\.[0-9]{1,3})?(MiB|s|%|ms|)", fullmatch=True)
    | st.lists(st.integers(), max_size=1)
)


@given(st.sampled_from(_NAMES), _anything)
def test_any_keyword_is_taken_or_refused(name: str, value: object) -> None:
    """Whatever is given for whatever rule: sound rules, or a RulesError that names the rule."""
    try:
        rules = Rules.resolve({}, {name: value})
    except RulesError as error:
        assert name in str(error)
    else:
        climb = [rules.enter_ratio(level) for level in Level]
        assert climb == sorted(set(climb))
        assert all(rules.leave_ratio(level) < rules.enter_ratio(level) for level in Level if level)


@given(
    st.sampled_from([*_OPERATORS, *(f"MEMGUARD_{name.upper()}" for name in _NAMES)]),
    st.text(max_size=12) | st.from_regex(r"[+-]?[0-9]{1,400}(\.[0-9]{1,3})?(MiB|s|%|ms|e9|)", fullmatch=True),
)
def test_any_environment_is_taken_or_refused(name: str, text: str) -> None:
    """Whatever stands in whatever variable: sound rules, or a RulesError that names the variable."""
    try:
        Rules.resolve({name: text})
    except RulesError as error:
        assert name in str(error) or "must be above" in str(error) or "may not exceed" in str(error)
