"""Traces: the request that enqueued a message is linked to its delivery, if OpenTelemetry is installed.

A link and no child: the delivery may come days after the request, and one request may enqueue many messages. Spans hold ids,
kinds and codes, and never the text of an error, which may have an address.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    IS_INSTALLED = False
else:
    IS_INSTALLED = True
    tracer = trace.get_tracer("postcommit")
    propagator = TraceContextTextMapPropagator()

HEADER = "traceparent"
"""Its name in W3C Trace Context."""


def current() -> str:
    """Return the traceparent of the running request or task; empty if there is none."""
    carrier: dict[str, str] = {}
    if IS_INSTALLED:
        propagator.inject(carrier)
    return carrier.get(HEADER, "")


@contextmanager
def span(name: str, traceparent: str, **attributes: str | int) -> Iterator[Callable[[str], None]]:
    """Run a span that is linked to a trace. Yield the function that notes the outcome."""
    if not IS_INSTALLED:
        yield lambda outcome: None
        return
    asked = trace.get_current_span(propagator.extract({HEADER: traceparent})).get_span_context()
    links = [trace.Link(asked)] if asked.is_valid else []
    named = {f"postcommit.{key}": value for key, value in attributes.items()}
    with tracer.start_as_current_span(
        name, links=links, attributes=named, record_exception=False, set_status_on_exception=False
    ) as running:
        try:
            yield lambda outcome: running.set_attribute("postcommit.outcome", outcome)
        except BaseException as error:
            running.set_attribute("postcommit.outcome", type(error).__name__)
            running.set_status(trace.StatusCode.ERROR)
            raise
