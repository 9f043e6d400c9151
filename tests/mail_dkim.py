"""Verify with Perl's Mail::DKIM, which shares no code with our signer."""

import atexit
import os
import subprocess
from collections.abc import Mapping
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import IO

import pytest

SCRIPT = Path(__file__).with_name("dkim_verifier.pl")


def verify(message: bytes, records: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the result of each signature by selector: `pass`, or `fail (…)`. `records` are TXT records by name.

    Without Mail::DKIM the test is skipped with a warning, and fails in CI.
    """
    if not _is_there():
        what = "NO SIGNATURE WAS VERIFIED: Mail::DKIM is missing (apt-get install libmail-dkim-perl libcryptx-perl)."
        if os.environ.get("CI"):
            pytest.fail(what)
        pytest.skip(what)
    file = folder / "message.eml"
    file.write_bytes(message)
    return _ask(str(file), *(piece for record in records.items() for piece in record))


@cache
def _is_there() -> bool:
    command = ["perl", "-MMail::DKIM::Verifier", "-MCrypt::PK::Ed25519", "-e", "1"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _ask(*question: str) -> dict[str, str]:
    questions, answers = _verifier()
    print(*question, sep="\t", file=questions, flush=True)
    lines = list(takewhile(str.strip, answers))  # an empty line ends the answer
    found = [line.rstrip("\n").split(" ", maxsplit=2) for line in lines]
    assert all(algorithm.endswith("-sha256") for _, algorithm, _ in found), (
        lines
    )  # anything else is a complaint of Perl
    return {selector: result for selector, _, result in found}


@cache
def _verifier() -> tuple[IO[str], IO[str]]:
    """Start Perl once for all tests of this process: it takes longer to start than to verify."""
    pipe = subprocess.PIPE
    perl = subprocess.Popen(["perl", str(SCRIPT)], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    atexit.register(perl.communicate)
    assert perl.stdin
    assert perl.stdout
    return perl.stdin, perl.stdout
