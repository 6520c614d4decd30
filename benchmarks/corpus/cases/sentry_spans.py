"""Each header that is injected registers one more event processor for the whole process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY, LEAKS, FIXED = "sentry-sdk", "2.60.0", "2.61.0"
WITH = ("opentelemetry-sdk==1.32.0",)
KIND, BYTES = "python", 300
RIGHT = ("global_event_processors",)


def service() -> Callable[[], object]:
    """Calls to other services, traced."""
    import sentry_sdk  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from sentry_sdk.integrations.opentelemetry import SentryPropagator, SentrySpanProcessor  # noqa: PLC0415

    sentry_sdk.init(dsn="", instrumenter="otel")
    provider = TracerProvider()
    provider.add_span_processor(SentrySpanProcessor())
    tracer, propagator = provider.get_tracer("shop"), SentryPropagator()

    def request() -> object:
        headers: dict[str, str] = {}
        with tracer.start_as_current_span("call"):
            propagator.inject(headers)
        return headers

    return request
