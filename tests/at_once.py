"""Run functions at the same time, each in a thread with its own database connection."""

import threading
import time
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


def wait_for_a_lock() -> None:
    """Wait until a connection to the test database waits for a lock."""
    for _ in range(200):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_locks WHERE NOT granted")
            if cursor.fetchone():
                return
        time.sleep(0.02)
    raise AssertionError("no connection waits for a lock")
