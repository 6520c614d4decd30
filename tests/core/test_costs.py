"""What requests cost, by route: shapes, templates, quantiles, and a bounded memory."""

from __future__ import annotations

import pytest

from memguard._core.costs import COLD_RATIO, OVERFLOW, SMALL_BODY_BYTES, Costs, Route, shape
from memguard.units import KIB, MIB


@pytest.mark.parametrize(
    ("label", "form"),
    [
        ("GET /", "GET /"),
        ("GET /users/7/posts", "GET /users/#/posts"),
        ("POST /agents/0f8fad5b-d9cb-469f-a165-70867728950e", "POST /agents/#"),
        ("GET /files/4d6175726f", "GET /files/#"),
        ("GET /users/me", "GET /users/me"),
        ("GET /v1/reports", "GET /v1/reports"),
        ("GET /" + "x" * 500, "GET /#"),
        ("GET " + "/a" * 50, "GET " + "/a" * 7 + "/…"),
        ("job", "job"),
    ],
)
def test_ids_are_taken_out_of_paths(label: str, form: str) -> None:
    """Numbers, codes and long segments are ids; words and versions are not; endless paths are cut."""
    assert shape(label) == form


def test_a_cold_route_is_eight_times_its_body_and_nothing_without_one() -> None:
    """Before anything is known: 8 times a body above 64 KiB, and nothing for the rest."""
    route = Route("POST /x")
    assert route.predict(SMALL_BODY_BYTES) is None
    assert route.predict(10 * MIB) == COLD_RATIO * 10 * MIB


def _taught(costs: Costs, label: str, mean_bytes: float, at: float = 0.0, requests: int = 10) -> Route:
    route = costs.route(label, at)
    for _ in range(requests):
        route.flat.requests += 1
        route.flat.moved(mean_bytes, 1.0, sure=True)
    return route


def test_few_requests_teach_nothing() -> None:
    """An estimate counts from the tenth request on."""
    assert _taught(Costs(), "GET /x", MIB, requests=9).predict(0) is None
    assert _taught(Costs(), "GET /x", MIB, requests=10).predict(0) == MIB


def test_what_may_be_chance_is_not_known() -> None:
    """However many requests were seen, nothing is predicted while the estimate may be chance."""
    route = _taught(Costs(), "GET /x", MIB)
    route.flat.moved(MIB, 1.0, sure=False)
    assert route.predict(0) is None
    route.flat.moved(MIB, 1.0, sure=True)
    assert route.predict(0) == MIB


def test_a_body_is_learned_as_a_ratio() -> None:
    """What 2 MiB taught holds for 60 MiB."""
    body = Route("POST /x").body
    route = Route("POST /x")
    route.body = body
    for _ in range(10):
        body.requests += 1
        body.moved(3.0 * MIB, 1.0, sure=True)
    assert route.predict(60 * MIB) == 180 * MIB


def test_the_prediction_is_the_95th_percentile_of_those_alone() -> None:
    """One in ten requests holds three times as much: that is what is promised, not the mean."""
    flat = _taught(Costs(), "GET /x", MIB).flat
    for number in range(40):
        flat.alone(3.0 if number % 10 == 0 else 1.0)
    flat.moved(MIB, 1.0, sure=True)
    assert flat.unit_bytes == 3 * MIB
    for _ in range(64):  # and it is forgotten when it does not come back
        flat.alone(1.0)
    flat.moved(MIB, 1.0, sure=True)
    assert flat.unit_bytes == MIB


def test_paths_of_one_shape_share_a_route() -> None:
    """/users/1 teaches /users/2."""
    costs = Costs()
    assert _taught(costs, "GET /users/1", MIB) is costs.route("GET /users/2", 0.0)


def test_a_template_takes_its_shape_along() -> None:
    """What was learned before routing is known goes to the template, under whose name it is then found."""
    costs = Costs()
    learned = _taught(costs, "GET /users/1", MIB)
    assert costs.template("GET /users/1", "GET /users/{id}", 0.0) is learned
    assert costs.route("GET /users/2", 0.0) is learned
    assert learned.name == "GET /users/{id}"
    assert len(costs) == 1


def test_a_template_with_words_in_it_joins_its_paths() -> None:
    """/wiki/{title} has no ids in its paths: once routed, they are one route, known by label."""
    costs = Costs()
    first = costs.template("GET /wiki/cats", "GET /wiki/{title}", 0.0)
    assert costs.template("GET /wiki/dogs", "GET /wiki/{title}", 0.0) is first
    assert costs.route("GET /wiki/dogs", 0.0) is first
    assert len(costs) == 1


def test_two_templates_of_one_shape_stay_apart_once_seen() -> None:
    """/users/{id} and /orgs-less /users/42/… are told apart by label when routing tells them apart."""
    costs = Costs()
    one = costs.template("GET /users/1", "GET /users/{id}", 0.0)
    other = costs.template("GET /users/2", "GET /users/{name}", 0.0)
    assert one is not other
    assert costs.route("GET /users/1", 0.0) is one
    assert costs.route("GET /users/2", 0.0) is other


def test_memory_is_bounded_and_the_rest_shares_a_row() -> None:
    """A flood of made-up paths fills no memory; what does not fit is counted together."""
    costs = Costs(at_most=8)
    for number in range(5000):
        costs.route(f"GET /{'abcdefgh'[number % 8]}{number:x}".replace("1", "l"), 1.0)
    assert len(costs) == 8
    assert len(costs._labels) <= 2048
    assert len(costs._shapes) <= 1024
    assert costs.route("GET /another", 2.0).name == OVERFLOW


def test_a_route_long_gone_makes_room() -> None:
    """The one that was not seen for longest leaves a full table, after ten minutes and not before."""
    costs = Costs(at_most=2)
    costs.route("GET /old", 0.0)
    costs.route("GET /young", 500.0)
    assert costs.route("GET /new", 599.0).name == OVERFLOW
    assert costs.route("GET /newer", 601.0).name == "GET /newer"
    assert {route.name for route in costs.routes()} == {"GET /young", "GET /newer"}


def test_small_bodies_count_with_their_request() -> None:
    """64 KiB parsed is less than a reading's noise."""
    route = Route("POST /x")
    assert route.load(64 * KIB) == (route.flat, 1.0)
    assert route.load(2 * MIB) == (route.body, 2.0)


def test_overlong_paths_are_not_kept() -> None:
    """A path of kilobytes is looked up by its shape each time; nothing of it stays."""
    costs = Costs()
    route = costs.route("GET /" + "x" * 5000, 0.0)
    assert costs.route("GET /" + "y" * 5000, 0.0) is route
    assert costs._labels == {}
    assert max(map(len, costs._shapes)) < 100


def test_the_table_lists_what_is_known() -> None:
    """Dearest first; None where too little was seen."""
    costs = Costs()
    _taught(costs, "GET /b", 2 * MIB)
    _taught(costs, "GET /a", MIB)
    costs.route("GET /new", 0.0)
    rows = costs.table()
    assert [(row.name, row.request_bytes, row.body_ratio) for row in rows] == [
        ("GET /b", 2 * MIB, None),
        ("GET /a", MIB, None),
        ("GET /new", None, None),
    ]
    assert rows[0].requests == 10
