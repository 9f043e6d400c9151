"""Start, stop, restart."""

import http.client
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from local.inbox.store import Missing, Store
from tests.local.inbox.conftest import Start
from tests.local.inbox.running_inbox import ROOT, RunningInbox, command


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_mail_survives_a_restart(start: Start, how: signal.Signals) -> None:
    first = start()
    message_id = first.send(b"Subject: still here\r\n\r\nbody\r\n", recipients=["ann@example.com"])
    first.process.send_signal(how)
    first.process.wait(10)
    again = start()
    assert [(message["id"], message["to"]) for message in again.found()] == [(message_id, ["ann@example.com"])]
    assert again.ask(f"/messages/{message_id}/source/").body == b"Subject: still here\r\n\r\nbody\r\n"


def test_open_connections_do_not_delay_the_stop(start: Start) -> None:
    running = start()
    idle_smtp, idle_http = running.smtp(), socket.create_connection(("127.0.0.1", running.port))
    idle_smtp.ehlo()
    began = time.monotonic()
    assert running.stop() == 0
    assert time.monotonic() - began < 10  # 0.3 s on an idle machine
    assert running.log.endswith("stopped\n")
    assert "Traceback" not in running.log
    idle_smtp.close()
    idle_http.close()


@pytest.mark.parametrize("flag", ["smtp_port", "port"])
def test_a_taken_port_is_reported_in_one_line(tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = subprocess.run(
            command(tmp_path, **{flag: port}), cwd=ROOT, capture_output=True, text=True, timeout=20
        )
    assert process.returncode == 1
    assert process.stderr.count("\n") == 1
    assert f"127.0.0.1:{port}" in process.stderr
    assert "in use" in process.stderr


def test_an_unusable_directory_is_reported_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    process = subprocess.run(command(file), cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert process.returncode == 1
    assert process.stderr.count("\n") == 1
    assert str(file) in process.stderr


def test_no_answer_waits_for_an_acknowledgement(inbox: RunningInbox) -> None:
    def seconds(ask: Callable[[], object]) -> float:
        began = time.monotonic()
        ask()
        return time.monotonic() - began

    def ehlo() -> None:
        with inbox.smtp() as smtp:
            smtp.ehlo()

    def twice_on_one_connection() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", inbox.port)
        for _ in range(2):
            connection.request("GET", "/healthz")
            connection.getresponse().read()
        connection.close()

    # The kernel's delayed acknowledgement costs 40 ms each time; a busy machine does not slow down all of ten tries.
    assert min(seconds(ehlo) for _ in range(10)) < 0.03
    assert min(seconds(twice_on_one_connection) for _ in range(10)) < 0.03


def test_only_the_owner_can_read_the_directory(tmp_path: Path) -> None:
    Store(tmp_path / "mail")
    assert (tmp_path / "mail").stat().st_mode & 0o077 == 0


def test_leftovers_of_a_crash_are_removed_at_the_next_start(tmp_path: Path) -> None:
    store = Store(tmp_path)
    whole = store.add(b"whole", "a@example.com", ["b@example.com"])
    dead = "20261121T120000-000000-abcdef"
    (tmp_path / f"{dead}.json").write_text("{}")
    (tmp_path / f"{dead}.part").write_bytes(b"hal")
    (tmp_path / "notes.txt").write_text("another file")
    again = Store(tmp_path)
    assert again.ids() == [whole]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{whole}.eml", f"{whole}.json", "notes.txt"]


def test_a_message_that_cannot_be_written_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    store = Store(tmp_path)
    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        store.add(b"x", "", [])
    assert list(tmp_path.iterdir()) == []


def test_a_lost_or_broken_envelope_does_not_hide_the_message(tmp_path: Path) -> None:
    store = Store(tmp_path)
    message_id = store.add(b"x", "a@example.com", [])
    (tmp_path / f"{message_id}.json").write_text('{"sender": 1')
    assert (store.envelope(message_id), store.source(message_id)) == (("", []), b"x")


@pytest.mark.parametrize("name", ["../secret", "secret", "", "20261121T120000-000000-ABCDEF"])
def test_an_id_cannot_point_to_another_file(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "mail")
    for file in (tmp_path / "secret.eml", store.directory / "secret.eml"):
        file.write_text("not a message")
    with pytest.raises(Missing):
        store.source(name)
    with pytest.raises(Missing):
        store.remove(name)
    assert store.ids() == []


def test_the_newest_message_is_the_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ids = [store.add(b"x", "", []) for _ in range(5)]
    assert store.ids() == ids[::-1]
