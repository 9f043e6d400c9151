"""A key belongs to a message that will still be sent: with deadlines, workers, people and other transactions at once."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from accounts.models import User
from mailer import outbox
from mailer.delivery import pipeline
from mailer.delivery.prepare import BUILDING
from mailer.models import SETTLED, SOURCES, UNSETTLED, WAITING, Message, State
from mailer.signals import message_settled
from tests.at_once import at_once, wait_for_a_lock
from tests.mailer.kinds import Fleeting, Plain, Raising, Receipt
from tests.mailer.worker import deliver, deliver_now
from tests.smtp_sink import Sink

pytestmark = pytest.mark.django_db(transaction=True)

KEY = "welcome:1"
PAST, LATER = timedelta(seconds=-1), timedelta(hours=1)


class Asked(Plain):
    """A test may act between the moment when `is_wanted` reads the database and its answer."""

    after_reading: ClassVar[list[Callable[[], None]]] = []

    def is_wanted(self) -> bool:
        answer = User.objects.get(pk=self.account.pk).is_active
        if self.after_reading:
            self.after_reading.pop(0)()
        return answer


def close_connections() -> None:
    """Close the one of this thread."""
    connection.close()


class Elsewhere:
    """A function in a thread with its own connection."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=[action])
        self._thread.start()

    def _run(self, action: Callable[[], Any]) -> None:
        try:
            self.result = action()
        except Exception as error:
            self.error = error
        finally:
            close_connections()

    def join(self) -> Any:
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self.error:
            raise self.error
        return self.result


@pytest.fixture
def settled() -> Iterator[list[tuple[int, str]]]:
    """The messages that the receivers of message_settled saw."""
    seen: list[tuple[int, str]] = []

    def note(message: Message, **_: Any) -> None:
        seen.append((message.pk, message.state))

    message_settled.connect(note)
    yield seen
    message_settled.disconnect(note)


def change(message: Message, **fields: Any) -> Message:
    Message.objects.filter(pk=message.pk).update(**fields)
    message.refresh_from_db()
    return message


# --- Row 15: a message past its deadline --------------------------------------------------------------------------------


@pytest.mark.parametrize("state", WAITING)
def test_a_message_past_its_deadline_does_not_keep_its_key(
    user: User, smtp: Sink, settled: list[tuple[int, str]], state: State
) -> None:
    late = change(outbox.enqueue(Plain(user), key=KEY), state=state, expires_at=Now() + PAST)

    newer = outbox.enqueue(Plain(user), key=KEY)

    late.refresh_from_db()
    assert (late.state, late.reason) == (State.EXPIRED, "its deadline passed before it could be sent")
    assert late.settled_at is not None
    assert settled == [(late.pk, State.EXPIRED)]
    assert newer.pk != late.pk
    assert deliver(newer).state == State.SENT


@pytest.mark.parametrize(("state", "expires"), [(State.SENDING, PAST), (State.HELD, PAST), (State.QUEUED, LATER)])
def test_a_message_that_may_have_arrived_or_has_time_left_keeps_its_key(
    user: User, state: State, expires: timedelta
) -> None:
    first = outbox.enqueue(Plain(user), key=KEY)
    change(first, state=state, expires_at=Now() + expires, claimed_until=timezone.now() + LATER)

    assert outbox.enqueue(Plain(user), key=KEY).pk == first.pk


def test_a_message_that_is_late_from_the_start_is_enqueued_once_each_time(user: User) -> None:
    first, second = (outbox.enqueue(Fleeting(user), key=KEY) for _ in range(2))

    assert first.pk != second.pk
    assert sorted(Message.objects.values_list("state", flat=True)) == [State.EXPIRED, State.QUEUED]


def test_a_rollback_takes_the_expiry_back_too(user: User) -> None:
    late = change(outbox.enqueue(Plain(user), key=KEY), expires_at=Now() + PAST)

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        outbox.enqueue(Plain(user), key=KEY)
        raise ZeroDivisionError

    late.refresh_from_db()
    assert (late.state, Message.objects.count()) == (State.QUEUED, 1)


def test_many_calls_at_once_for_a_late_message_enqueue_one_new_message(
    user: User, settled: list[tuple[int, str]]
) -> None:
    late = change(outbox.enqueue(Plain(user), key=KEY), expires_at=Now() + PAST)

    rows, failures = at_once([lambda: outbox.enqueue(Plain(user), key=KEY).pk] * 8)

    assert failures == []
    assert len(set(rows)) == 1
    assert late.pk not in rows
    assert settled == [(late.pk, State.EXPIRED)]


def test_a_late_message_does_not_keep_a_failed_one_from_a_retry(user: User) -> None:
    failed = change(outbox.enqueue(Plain(user), key=KEY), state=State.FAILED)
    late = change(outbox.enqueue(Plain(user), key=KEY), expires_at=Now() + PAST)

    assert outbox.retry(Message.objects.filter(pk=failed.pk), reason="again") == 1

    late.refresh_from_db()
    assert late.state == State.EXPIRED


# --- Row 16: a message that a worker is cancelling ----------------------------------------------------------------------


@pytest.fixture
def unwanted(user: User, smtp: Sink) -> Message:
    """A message that is due, and not wanted as long as the user is inactive."""
    User.objects.filter(pk=user.pk).update(is_active=False)
    return outbox.enqueue(Asked(user), key=KEY)


def activate_and_enqueue(user: User) -> int:
    User.objects.filter(pk=user.pk).update(is_active=True)
    return outbox.enqueue(Asked(user), key=KEY).pk


def is_sent_in_the_end(pk: int) -> bool:
    message = Message.objects.get(pk=pk)
    return message.state == State.SENT or deliver_now(message).state == State.SENT


def test_a_commit_between_the_workers_decision_and_its_write_is_not_swallowed(
    user: User, smtp: Sink, unwanted: Message
) -> None:
    commits: list[Elsewhere] = []

    def commit() -> None:
        commits.append(Elsewhere(transaction.atomic(lambda: activate_and_enqueue(user))))
        commits[0].join()

    Asked.after_reading[:] = [commit]
    deliver(unwanted)

    assert is_sent_in_the_end(commits[0].result)
    assert len(smtp.received) == 1


def test_a_transaction_that_is_open_while_the_worker_decides_is_not_swallowed(
    user: User, smtp: Sink, unwanted: Message
) -> None:
    enqueued, commit = threading.Event(), threading.Event()

    @transaction.atomic
    def change_slowly() -> int:
        pk = activate_and_enqueue(user)
        enqueued.set()
        assert commit.wait(30)
        return pk

    request = Elsewhere(change_slowly)
    assert enqueued.wait(30)
    assert deliver(unwanted).state == State.QUEUED  # the worker neither waits nor cancels it
    commit.set()

    assert is_sent_in_the_end(request.join())
    assert len(smtp.received) == 1


def test_a_message_that_fails_while_a_call_holds_its_key_is_put_back(user: User, smtp: Sink) -> None:
    """Otherwise it would name a living worker that has not got it in hand, and no other would take it."""
    message = change(outbox.enqueue(Raising(user), key=KEY), troubled_since=Now() - BUILDING)
    enqueued, commit = threading.Event(), threading.Event()

    @transaction.atomic
    def hold() -> None:
        outbox.enqueue(Raising(user), key=KEY)
        enqueued.set()
        assert commit.wait(30)

    request = Elsewhere(hold)
    assert enqueued.wait(30)
    deliver(message)
    assert (message.state, message.worker) == (State.QUEUED, None)
    commit.set()
    request.join()

    assert deliver(message).state == State.FAILED


def test_a_call_while_the_worker_cancels_enqueues_a_new_message(user: User, smtp: Sink, unwanted: Message) -> None:
    requests: list[Elsewhere] = []

    def meanwhile() -> None:  # the second decision, under the row's lock
        requests.append(Elsewhere(transaction.atomic(lambda: activate_and_enqueue(user))))
        wait_for_a_lock()

    Asked.after_reading[:] = [lambda: None, meanwhile]

    assert deliver(unwanted).state == State.CANCELLED
    pk = requests[0].join()
    assert pk != unwanted.pk
    assert is_sent_in_the_end(pk)


def test_a_message_that_stays_unwanted_is_cancelled(unwanted: Message) -> None:
    assert deliver(unwanted).state == State.CANCELLED


def test_a_call_with_the_key_does_not_keep_a_worker_from_sending_the_message(user: User, smtp: Sink) -> None:
    message = outbox.enqueue(Plain(user), key=KEY)

    with transaction.atomic():
        assert outbox.enqueue(Plain(user), key=KEY).pk == message.pk
        Elsewhere(lambda: deliver(message)).join()
        assert len(smtp.received) == 1


# --- Row 29: two transactions that wait for each other ------------------------------------------------------------------


def holding(key: str, user: User, release: threading.Event) -> Elsewhere:
    """Enqueue with the key in a transaction that stays open until `release`."""
    holds = threading.Event()

    @transaction.atomic
    def hold() -> int:
        pk = outbox.enqueue(Plain(user), key=key).pk
        holds.set()
        assert release.wait(30)
        return pk

    thread = Elsewhere(hold)
    assert holds.wait(30)
    return thread


def lock_timeout() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('lock_timeout')")
        return str(cursor.fetchone()[0])


def test_keys_in_opposite_order_end_with_a_clear_error_for_one(user: User) -> None:
    both_hold_one = threading.Barrier(2)

    def enqueue(first: str, second: str) -> None:
        with transaction.atomic():
            outbox.enqueue(Plain(user), key=first)
            both_hold_one.wait(10)
            outbox.enqueue(Plain(user), key=second)

    _, failures = at_once([lambda: enqueue("a", "b"), lambda: enqueue("b", "a")])

    [failure] = failures
    assert isinstance(failure, outbox.KeyBusy)
    assert "sorted order" in str(failure)
    assert sorted(Message.objects.values_list("key", flat=True)) == ["a", "b"]


def test_keys_of_existing_messages_in_opposite_order_do_not_wait_for_each_other(user: User) -> None:
    existing = {key: outbox.enqueue(Plain(user), key=key).pk for key in "ab"}
    release = threading.Event()
    other = holding("b", user, release)

    with transaction.atomic():
        assert {key: outbox.enqueue(Plain(user), key=key).pk for key in "ab"} == existing
    release.set()
    assert other.join() == existing["b"]


def test_a_call_waits_a_bounded_time_and_its_transaction_can_go_on(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "LONGEST_WAIT", 1)
    release = threading.Event()
    other = holding(KEY, user, release)
    began = time.monotonic()

    with transaction.atomic():
        with pytest.raises(outbox.KeyBusy, match="Repeat this transaction"):
            outbox.enqueue(Plain(user), key=KEY)
        assert 0.9 < time.monotonic() - began < 15
        assert lock_timeout() == "0"
        beside = outbox.enqueue(Plain(user), key="another").pk
        assert lock_timeout() == "0"
    release.set()

    assert {other.join(), beside} == set(Message.objects.values_list("pk", flat=True))


def test_a_call_waits_for_a_transaction_that_ends_soon(user: User) -> None:
    release = threading.Event()
    other = holding(KEY, user, release)
    threading.Timer(0.3, release.set).start()

    assert outbox.enqueue(Plain(user), key=KEY).pk == other.join()


def test_an_applications_own_lock_timeout_stays(user: User) -> None:
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '300ms'")
        outbox.enqueue(Plain(user), key=KEY)
        assert lock_timeout() == "300ms"


def test_other_errors_of_the_database_are_raised_as_they_are(user: User) -> None:
    with pytest.raises(OperationalError) as raised, transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = 1")
        with outbox._limited_waiting(KEY), connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(1)")
    assert not isinstance(raised.value, outbox.KeyBusy)


# --- Row 34: retry ------------------------------------------------------------------------------------------------------


@pytest.fixture
def failed(user: User) -> Message:
    return change(outbox.enqueue(Plain(user), key=KEY), state=State.FAILED, settled_at=timezone.now())


def retry(message: Message) -> int:
    return outbox.retry(Message.objects.filter(pk=message.pk), reason="again")


@pytest.mark.parametrize("commits", [True, False])
def test_a_retry_meets_a_new_message_of_an_open_transaction(user: User, failed: Message, *, commits: bool) -> None:
    beside = change(outbox.enqueue(Plain(user)), state=State.FAILED)
    holds, release = threading.Event(), threading.Event()

    def request() -> None:
        with transaction.atomic():
            outbox.enqueue(Plain(user), key=KEY)
            holds.set()
            assert release.wait(30)
            transaction.set_rollback(not commits)

    thread = Elsewhere(request)
    assert holds.wait(30)
    retried = Elsewhere(lambda: outbox.retry(Message.objects.filter(pk__in=[failed.pk, beside.pk]), reason="again"))
    wait_for_a_lock()
    release.set()
    thread.join()

    assert retried.join() == (1 if commits else 2)
    assert Message.objects.filter(key=KEY, state__in=UNSETTLED).count() == 1


def test_a_retry_skips_a_key_of_a_transaction_that_does_not_end(
    user: User, failed: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "LONGEST_WAIT", 1)
    release = threading.Event()
    other = holding(KEY, user, release)

    assert retry(failed) == 0
    release.set()
    other.join()


def test_the_command_says_that_a_message_was_skipped(
    user: User, failed: Message, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = outbox.enqueue(Plain(user), key=KEY)

    call_command("requeue_mail", str(failed.pk))

    assert (
        "1 skipped: not found, not held or failed, its body was erased, or its key is taken." in capsys.readouterr().err
    )
    failed.refresh_from_db()
    assert (failed.state, newer.state) == (State.FAILED, State.QUEUED)


def test_a_held_message_with_a_key_is_retried_and_marked_as_delivered(user: User) -> None:
    held = change(outbox.enqueue(Receipt(user), key=KEY), state=State.HELD)
    assert retry(held) == 1

    change(held, state=State.HELD)
    assert outbox.mark_as_delivered(Message.objects.all(), reason="she has it") == 1
    newer = outbox.enqueue(Receipt(user), key=KEY)
    assert newer.pk != held.pk
    assert outbox.resend(held).key == ""


def test_two_retries_of_two_failed_messages_with_one_key_at_once_queue_one(user: User, failed: Message) -> None:
    second = change(outbox.enqueue(Plain(user), key=KEY), state=State.FAILED)

    counts, failures = at_once([lambda: retry(failed), lambda: retry(second)] * 3)

    assert failures == []
    assert sum(counts) == 1


# --- All at once --------------------------------------------------------------------------------------------------------


STEPS = 40


class Chaos:
    """Threads that enqueue, settle, expire, cancel and retry with few keys."""

    def __init__(self, user: User, seed: int) -> None:
        self.user, self.seed = user, seed
        self.has_ended = threading.Event()
        self.retried: list[tuple[int, float]] = []
        self.taken: list[tuple[int, float]] = []
        """The messages that were settled before a call returned them, and when that call began."""

    def run(self, number: int) -> None:
        chance = random.Random(f"{self.seed}/{number}")
        actions = [self.enqueue, self.enqueue, self.settle, self.expire, self.cancel, self.retry, self.work]
        for _ in range(STEPS):
            chance.choice(actions)(chance)
        close_connections()

    def one(self, chance: random.Random, **which: Any) -> Message | None:
        rows = list(Message.objects.exclude(key="").filter(**which).order_by("-pk")[:6])
        return chance.choice(rows) if rows else None

    def enqueue(self, chance: random.Random) -> None:
        key, pause = chance.choice("abc"), chance.choice([0, 0, 0.005])
        began = time.monotonic()
        settled = set(Message.objects.filter(key=key, state__in=SETTLED).values_list("pk", flat=True))
        with transaction.atomic():
            row = outbox.enqueue(Asked(self.user), key=key)
            time.sleep(pause)
        if row.pk in settled:
            self.taken.append((row.pk, began))

    def swallowed(self) -> list[int]:
        """Return the messages that a call returned although they were settled all the time."""
        retried = set(self.retried)
        return [pk for pk, began in self.taken if not any(pk == other and ended >= began for other, ended in retried)]

    def settle(self, chance: random.Random) -> None:
        if message := self.one(chance, state__in=UNSETTLED):
            row, lease = Message.objects.filter(pk=message.pk), timezone.now() + LATER
            row.filter(state__in=SOURCES[State.SENDING]).update(state=State.SENDING, claimed_until=lease)
            row.move(chance.choice([State.SENT, State.FAILED, State.RETRYING, State.HELD]))

    def expire(self, chance: random.Random) -> None:
        if message := self.one(chance, state__in=WAITING):
            Message.objects.filter(pk=message.pk, state__in=WAITING).update(expires_at=Now() + PAST)

    def cancel(self, chance: random.Random) -> None:
        if message := self.one(chance):
            outbox.cancel(message)

    def retry(self, chance: random.Random) -> None:
        if message := self.one(chance, state__in=(State.FAILED, State.HELD)):
            with transaction.atomic():
                Message.objects.filter(pk=message.pk).update(expires_at=None)
                moved = retry(message)
            if moved:
                self.retried.append((message.pk, time.monotonic()))

    def work(self, chance: random.Random) -> None:
        User.objects.filter(pk=self.user.pk).update(is_active=chance.random() < 0.5)
        if message := self.one(chance, state__in=WAITING):
            pipeline.deliver(message.pk)


@pytest.mark.parametrize("seed", range(2))
def test_no_call_is_swallowed_and_no_key_is_taken_twice(user: User, smtp: Sink, seed: int) -> None:
    Asked.after_reading.clear()
    chaos = Chaos(user, seed)
    taken_twice: list[str] = []

    def watch() -> None:
        while not chaos.has_ended.is_set():
            keys = list(Message.objects.filter(state__in=UNSETTLED).exclude(key="").values_list("key", flat=True))
            taken_twice.extend(key for key in keys if keys.count(key) > 1)
            time.sleep(0.002)

    watching = Elsewhere(watch)
    _, failures = at_once([partial(chaos.run, number) for number in range(6)])
    chaos.has_ended.set()
    watching.join()

    assert (failures, chaos.swallowed(), taken_twice) == ([], [], [])
