"""Verify with Perl's Mail::DKIM, which shares no code with our signer."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("dkim_verifier.pl")


def verify(message: bytes, records: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the result of each signature by selector: `pass`, or `fail (…)`. `records` are TXT records by name.

    Without Mail::DKIM the test is skipped with a warning, and fails in CI.
    """
    _ensure_it_is_there()
    file = folder / "message.eml"
    file.write_bytes(message)
    command = ["perl", str(SCRIPT), str(file), *(piece for record in records.items() for piece in record)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return {
        selector: result for selector, _, result in (line.split(" ", maxsplit=2) for line in done.stdout.splitlines())
    }


def _ensure_it_is_there() -> None:
    command = ["perl", "-MMail::DKIM::Verifier", "-MCrypt::PK::Ed25519", "-e", "1"]
    try:
        subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        what = "NO SIGNATURE WAS VERIFIED: Mail::DKIM is missing (apt-get install libmail-dkim-perl libcryptx-perl)."
        if os.environ.get("CI"):
            pytest.fail(what)
        pytest.skip(what)
