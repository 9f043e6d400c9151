"""`make stop`: stops everything in order, from any terminal, and waits for the end."""

import sys
import time

from local import supervision

TIMEOUT = 60.0


def main() -> int:
    """Returns the exit status."""
    supervisor = supervision.running()
    if not supervisor:
        print("Postcommit is not running here.")
        return 0
    began = time.monotonic()
    print("Stopping in order: web, worker, beat, Flower, inbox, servers.", flush=True)
    supervisor.shut_down()
    while supervisor.is_there():
        if time.monotonic() - began > TIMEOUT:
            print(
                f"Not stopped after {TIMEOUT:g} s; .local/log/supervisord.log says what it waits for.", file=sys.stderr
            )
            return 1
        time.sleep(0.1)
    print(f"Stopped in {time.monotonic() - began:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
