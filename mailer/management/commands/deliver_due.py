import math
import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, current_thread, main_thread
from typing import Any

from django.template.defaultfilters import pluralize

from mailer.delivery import pipeline
from mailer.delivery.explain import tally
from mailer.delivery.housekeeping import housekeeping
from mailer.delivery.pulse import look
from mailer.management.operator import OperatorCommand
from mailer.management.progress import Progress
from mailer.models import Message, Queue, Role, Taken

NO_DETAIL = re.compile(r"[:;,]| \d")
"""Where the details of a result begin, as in `sent 250`."""


class Command(OperatorCommand):
    help = (
        "Deliver all due messages in this process, without broker and worker, the most urgent first. It may run beside "
        "workers. At the end it says what became of them, and what still waits and why. Ctrl-C stops it after the message in "
        "hand. Example: deliver_due"
    )

    def handle(self, *args: Any, **options: Any) -> None:
        results: Counter[str] = Counter()
        progress = Progress(self.stderr, "messages tried", Message.objects.due().count())

        def note(said: str) -> None:
            results[NO_DETAIL.split(said)[0]] += 1
            progress()

        with _stop_signal() as stop:
            housekeeping.start(list(Queue), Role.COMMAND)
            try:
                tried = pipeline.deliver_due(
                    list(Queue),
                    seconds=math.inf,
                    longest_wait=timedelta(days=1),
                    taken=Taken.COMMAND,
                    must_stop=stop.is_set,
                    on_result=note,
                )
            finally:
                housekeeping.stop()
        progress.end()
        self.stdout.write(f"{tried} due message{pluralize(tried)} tried{_in_words(results)}.")
        for cause in tally(look(), Message.objects.waiting()):
            self.stdout.write(f"{cause.number} still wait{pluralize(cause.number, 's,')}: {cause.explanation}")


def _in_words(results: Counter[str]) -> str:
    return "".join(f"; {result}: {number}" for result, number in results.most_common())


@contextmanager
def _stop_signal() -> Iterator[Event]:
    """Set an event at the first Ctrl-C. The second one ends the process."""
    stop = Event()
    if current_thread() is not main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def set_it(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, set_it)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
