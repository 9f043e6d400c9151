"""Mail of an app that does not know the outbox, in a new process with its own settings."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_mail_of_django_allauth_goes_through_the_outbox() -> None:
    scenarios = HERE / "with_allauth" / "scenarios.py"
    options = ["--ds=tests.mailer.with_allauth.settings", "-q", "-n0", "-p", "no:randomly", "-p", "no:cacheprovider"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}

    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(scenarios)],
        cwd=HERE.parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=55,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
