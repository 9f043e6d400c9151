"""A delivery is linked to the request that enqueued its message. Real spans of OpenTelemetry's own library."""

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, Tracer

from accounts.models import User
from mailer import outbox, tracing
from mailer.delivery import pipeline
from tests.mailer.kinds import Plain
from tests.smtp_sink import Sink

pytestmark = pytest.mark.usefixtures("broker")


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> Tracer:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracer = provider.get_tracer("a test")
    monkeypatch.setattr(tracing, "tracer", tracer)
    return tracer


@pytest.mark.django_db(transaction=True)
def test_the_delivery_is_linked_to_the_request(
    user: User, smtp: Sink, tracer: Tracer, spans: InMemorySpanExporter
) -> None:
    with tracer.start_as_current_span("request") as request:
        message = outbox.enqueue(Plain(user))
    pipeline.deliver(message.pk)

    _, delivery = spans.get_finished_spans()
    [link] = delivery.links
    assert delivery.name == "deliver"
    assert link.context.trace_id == request.get_span_context().trace_id
    assert link.context.span_id == request.get_span_context().span_id
    assert delivery.context.trace_id != link.context.trace_id
    assert dict(delivery.attributes or {}) == {
        "postcommit.message_id": message.pk,
        "postcommit.kind": "tests.Plain",
        "postcommit.queue": "default",
        "postcommit.outcome": "sent 250",
    }


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("stored", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_without_a_trace_there_is_no_link(
    user: User, smtp: Sink, tracer: Tracer, spans: InMemorySpanExporter, stored: str
) -> None:
    message = outbox.enqueue(Plain(user))
    assert message.traceparent == ""
    type(message).objects.filter(pk=message.pk).update(traceparent=stored)
    pipeline.deliver(message.pk)

    [delivery] = spans.get_finished_spans()
    assert not delivery.links


def test_an_error_is_noted_without_its_text(tracer: Tracer, spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="ann@example"), tracing.span("deliver", "", message_id=1):
        raise ValueError("ann@example.com")

    [span] = spans.get_finished_spans()
    assert (span.attributes or {})["postcommit.outcome"] == "ValueError"
    assert (span.status.status_code, span.status.description, span.events) == (StatusCode.ERROR, None, ())


@pytest.mark.django_db
def test_it_costs_nothing_and_stores_nothing_if_it_is_not_installed(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "IS_INSTALLED", False)

    assert outbox.enqueue(Plain(user)).traceparent == ""
    with tracing.span("deliver", "", message_id=1) as note:
        note("sent 250")
