"""Numbers for Prometheus.

They are counted in PostgreSQL at each scrape, so they are right over any number of web and worker processes. Numbers of the
last hour are gauges and no counters: rows are purged, and a counter must not fall.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeHistogramMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mailer import routes
from mailer.conf import options
from mailer.delivery import circuit, figures
from mailer.delivery.figures import ATTEMPTS, DELAYS, Figures, Row
from mailer.delivery.pulse import Pulse
from mailer.email import KINDS
from mailer.models import Circuit, Queue, State, StreamReputation
from mailer.recipients import subscriptions

OTHER = "other"
"""The label of kinds, queues and transports that this release does not know, so that the number of series is bounded."""

Key = tuple[str, ...]
"""The values of a metric's labels."""


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer with the numbers if the request bears the token. Without POSTCOMMIT_METRICS_TOKEN only DEBUG has this page."""
    token = options().metrics_token
    if not token and not settings.DEBUG:
        return HttpResponse("This page needs the setting POSTCOMMIT_METRICS_TOKEN.\n", "text/plain", 404)
    if token and not constant_time_compare(request.headers.get("Authorization", ""), f"Bearer {token}"):
        refusal = "This page needs the header Authorization: Bearer, with POSTCOMMIT_METRICS_TOKEN.\n"
        return HttpResponse(refusal, "text/plain", 401, headers={"WWW-Authenticate": "Bearer"})
    try:
        registry = CollectorRegistry()
        registry.register(FiguresCollector(figures.read()))
    except (DatabaseError, InterfaceError):
        return HttpResponse("The database did not answer in time.\n", "text/plain", 503)
    return HttpResponse(generate_latest(registry), CONTENT_TYPE_LATEST)


class FiguresCollector(Collector):
    """The figures of one moment as metrics."""

    def __init__(self, figures: Figures) -> None:
        self.figures = figures

    def collect(self) -> Iterable[Metric]:
        yield from _unsettled(self.figures.unsettled)
        yield from _settled(self.figures.settled)
        yield _delays([row for row in self.figures.settled if row["state"] == State.SENT])
        yield _attempts(self.figures.attempts)
        yield from _pulse(self.figures.pulse)
        yield from _transports(self.figures.pulse.circuits)
        yield from _streams(self.figures.pulse.streams)


def _unsettled(rows: Iterable[Row]) -> Iterator[Metric]:
    oldest: dict[Key, float] = {(queue,): 0.0 for queue in Queue.values}
    for row in rows:
        queue = (_queue(row),)
        oldest[queue] = max(oldest.get(queue, 0.0), row.get("oldest", 0.0))
    help_text = "Messages that are not settled: queued, retrying, sending, or held for a person."
    yield _gauge("postcommit_messages", help_text, ("state", "kind"), _by_state_and_kind(rows))
    help_text = "Held messages that stopped several workers."
    yield _gauge("postcommit_quarantined", help_text, (), {(): sum(row.get("quarantined", 0) for row in rows)})
    help_text = (
        "Seconds since the oldest message that is due, or that cannot be prepared, was first due. "
        "Messages that a server asked to try again later do not count before that time."
    )
    yield _gauge("postcommit_oldest_due_seconds", help_text, ("queue",), oldest)


def _settled(rows: Iterable[Row]) -> Iterator[Metric]:
    help_text = "Messages that were settled in the last hour. A gauge: it also falls."
    yield _gauge("postcommit_messages_settled_last_hour", help_text, ("state", "kind"), _by_state_and_kind(rows))


def _delays(sent: Iterable[Row]) -> Metric:
    help_text = (
        "Seconds from when a message was first due, which is the commit and the delay that the application asked for, to its "
        "acceptance by a server. Messages that were accepted in the last hour. A gauge: it also falls."
    )
    family = GaugeHistogramMetricFamily("postcommit_delay_seconds_last_hour", help_text, labels=["queue"])
    limits = [*(str(float(limit)) for limit in DELAYS), "+Inf"]
    for queue in sorted({*Queue.values, *map(_queue, sent)}):
        rows = [row for row in sent if _queue(row) == queue]
        up_to = [float(sum(row["number"] for row in rows if row["place"] <= place)) for place in range(len(limits))]
        family.add_metric([queue], list(zip(limits, up_to, strict=True)), sum(row["total"] for row in rows))
    return family


def _attempts(rows: Iterable[Row]) -> Metric:
    known = routes.names()
    numbers: Counter[Key] = Counter()
    for row in rows:
        numbers[str(row["outcome"]), row["transport"] if row["transport"] in known else OTHER] += row["number"]
    help_text = f"Attempts that began in the last hour, the newest {ATTEMPTS} at most. A gauge: it also falls."
    return _gauge("postcommit_attempts_last_hour", help_text, ("outcome", "transport"), numbers)


def _pulse(pulse: Pulse) -> Iterator[Metric]:
    serving: dict[Key, float] = {(queue,): len(pulse.serving(queue)) for queue in Queue.values}
    yield _gauge("postcommit_workers", "Living worker processes that serve a queue.", ("queue",), serving)
    for name, what, moment in (
        ("worker_heartbeat", "any worker wrote its heartbeat", pulse.worker_at),
        ("sweep", "any worker began a sweep", pulse.swept_at),
        ("broker_answer", "the broker answered a worker", pulse.broker_at),
        ("beat_heartbeat", "beat wrote its heartbeat", pulse.beat_at),
    ):
        help_text = f"Seconds since {what}. +Inf if no row knows of it."
        yield _gauge(f"postcommit_{name}_age_seconds", help_text, (), {(): pulse.age(moment)})


def _transports(circuits: Iterable[Circuit]) -> Iterator[Metric]:
    paused: dict[Key, float] = {(alias, "all"): 0 for alias in routes.names() if alias}
    needs_person = {**paused}
    for each in circuits:
        where = each.transport, "all" if each.host == circuit.ALL else each.host
        paused[where], needs_person[where] = 1, int(each.needs_person)
    labels = "transport", "host"
    yield _gauge("postcommit_transport_paused", "1 while a transport is paused, on one host or all.", labels, paused)
    help_text = "1 while a person must correct the configuration or the account of a transport."
    yield _gauge("postcommit_transport_needs_person", help_text, labels, needs_person)


def _streams(rows: Iterable[StreamReputation]) -> Iterator[Metric]:
    known = {row.pk: row for row in rows}
    streams = {name: known.get(name, StreamReputation()) for name in subscriptions.streams()}
    help_text = "1 while the mail of a stream waits, because a person or too many reports of spam paused it."
    paused: dict[Key, float] = {(name,): int(row.paused_since is not None) for name, row in streams.items()}
    yield _gauge("postcommit_stream_paused", help_text, ("stream",), paused)
    help_text = (
        "Of the mail of a stream in the last day, the share that was reported as spam; 0 while too few were. "
        "Of a paused stream, as it was then."
    )
    shares: dict[Key, float] = {(name,): row.rate or 0.0 for name, row in streams.items()}
    yield _gauge("postcommit_stream_complaint_ratio", help_text, ("stream",), shares)


def _gauge(name: str, help_text: str, labels: Key, values: Mapping[Key, float]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family


def _by_state_and_kind(rows: Iterable[Row]) -> Mapping[Key, float]:
    numbers: Counter[Key] = Counter()
    for row in rows:
        kind = KINDS[row["kind"]].kind if row["kind"] in KINDS else OTHER  # a former name counts for the present one
        numbers[str(row["state"]), kind] += row["number"]
    return numbers


def _queue(row: Row) -> str:
    return str(row["queue"]) if row["queue"] in Queue.values else OTHER
