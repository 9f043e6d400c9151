"""`make restart`: new code for web, worker, beat and Flower. The servers and the inbox stay; nothing is lost."""

import sys
import time

from local import environment, ready, supervision
from local.programs import RESTARTED


def main() -> int:
    """Returns the exit status."""
    supervisor = supervision.running()
    if not supervisor:
        print("Postcommit is not running here: make start starts it.", file=sys.stderr)
        return 1
    ports = environment.ports(environment.read(environment.ENV_FILE))
    for name in RESTARTED:
        began = time.monotonic()
        supervisor.stop(name)
        try:
            ready.wait(supervisor, {name: supervisor.start(name)}, ports)
        except ready.Failed as failure:
            print(failure, file=sys.stderr)
            return 1
        print(f"{name} restarted in {time.monotonic() - began:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
