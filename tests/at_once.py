"""Run functions at the same time, each in a thread with its own database connection."""

import threading
from collections.abc import Callable, Iterable

from django.db import connection


def at_once[T](actions: Iterable[Callable[[], T]]) -> tuple[list[T], list[Exception]]:
    """Run all functions at once. Return their results and their exceptions."""
    results: list[T] = []
    failures: list[Exception] = []

    def run(action: Callable[[], T]) -> None:
        try:
            results.append(action())
        except Exception as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=[action]) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results, failures
