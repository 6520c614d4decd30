"""The control API under whatever its own OpenAPI allows, and more: no server errors, and answers as documented."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

from tests.control.asking import fake_guard, fake_report, protected

if TYPE_CHECKING:
    from collections.abc import Iterator

schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis")

# The warnings of its own dependencies are not ours.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def api() -> Iterator[Any]:
    """The schema of a protected application, asked by somebody who may do everything."""
    from memguard.ext.fastapi import control

    paces = control._ACTS, control._DUMPS
    control._ACTS = control._DUMPS = 1_000_000
    guard, _, _ = fake_guard()
    guard.diagnose = lambda **_: fake_report()  # type: ignore[method-assign]
    pool: Any = guard.pool("agents")
    pool["a"] = bytearray(1000)
    guard.states("beliefs", spill=False)["a"] = list(range(1000))
    app = protected(guard=guard, token="open-sesame")  # noqa: S106 - a test's
    try:
        yield schemathesis.openapi.from_asgi("/openapi.json", app).include(path_regex="^/(api|admin)")
    finally:
        control._ACTS, control._DUMPS = paces


def test_no_server_errors(api: Any) -> None:
    """Whatever is asked, within the schema and beside it: no 5xx, and JSON that fits what is documented."""
    served: Counter[int] = Counter()
    for result in api.get_all_operations():
        operation = result.ok()
        for mode in schemathesis.GenerationMode:
            try:
                strategy = operation.as_strategy(generation_mode=mode)
                _attempt(operation, strategy, served)
            except Unsatisfiable:  # nothing can be wrong about an operation without parameters
                continue
            except Exception as error:
                if "Impossible to generate" not in str(error):
                    raise
    assert served.total() > 100
    assert served[200] > 30
    assert served[422] > 5


def _attempt(operation: Any, strategy: Any, served: Counter[int]) -> None:
    @settings(
        max_examples=int(os.environ.get("MEMGUARD_EXAMPLES", "5")),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def attempt(case: Any) -> None:
        answer = case.call(headers={"Authorization": "Bearer open-sesame"})
        served[answer.status_code] += 1
        assert answer.status_code < 500, (case.as_curl_command(), answer.text)
        if answer.status_code == 200:
            operation.validate_response(answer)
        elif answer.status_code >= 400:
            assert "json" in answer.headers["content-type"][0], answer.headers

    attempt()
