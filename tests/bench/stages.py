"""Sample where the CPU goes while one process delivers all that is due: `python -m tests.bench.stages FOLDED`.

It prints the milliseconds a mail of each of our modules, with what that module calls in libraries. The whole stacks go to
FOLDED, a line each, as flamegraph.pl and speedscope.app read them.
"""

import io
import json
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import django
from django.core.management import call_command

OURS = ("mailer.", "accounts.")
EVERY = 0.001
"""Seconds of CPU between two samples. The kernel may take longer."""


class Sampler:
    """Counts the stacks of the main thread. The time of other threads counts for what it does meanwhile."""

    def __init__(self) -> None:
        self.stacks: Counter[tuple[str, ...]] = Counter()

    def __enter__(self) -> "Sampler":
        self._cpu = time.process_time()
        signal.signal(signal.SIGPROF, self._note)
        signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.cpu = time.process_time() - self._cpu

    def _note(self, _: int, frame: FrameType | None) -> None:
        stack = []
        while frame is not None:
            stack.append(f"{frame.f_globals.get('__name__')}:{frame.f_code.co_name}")
            frame = frame.f_back
        self.stacks[tuple(reversed(stack))] += 1

    def milliseconds(self) -> dict[str, float]:
        """Return the CPU of each of our modules that takes a hundredth of it, the most expensive first."""
        modules: Counter[str] = Counter()
        for stack, times in self.stacks.items():
            ours = (call.partition(":")[0] for call in reversed(stack) if call.startswith(OURS))
            modules[next(ours, "other")] += times
        share = {module: times / modules.total() for module, times in modules.most_common()}
        return {module: 1000 * self.cpu * part for module, part in share.items() if part >= 0.01}


def main(folded: Path) -> None:
    django.setup()
    from mailer.models import Message, State

    with Sampler() as sampler:
        call_command("deliver_due", stdout=io.StringIO(), stderr=io.StringIO())
    mails = Message.objects.filter(state=State.SENT).count()
    folded.write_text("".join(f"{';'.join(stack)} {times}\n" for stack, times in sampler.stacks.items()))
    print(json.dumps({module: cpu / mails for module, cpu in sampler.milliseconds().items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
