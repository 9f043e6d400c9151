import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.environment import database_url, redis_url
from local import CannotStart, environment

SOCKETS = Path("/home/Ann/Some Folder")
DEFAULTS = dict(environment.PORTS)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server((environment.ADDRESS, 0)) as server:
        yield server.getsockname()[1]


def test_ports_have_defaults() -> None:
    assert environment.ports({}) == DEFAULTS
    assert environment.ports({"WEB_PORT": "9000", "OTHER": "x"}) == DEFAULTS | {"WEB_PORT": 9000}


@pytest.mark.parametrize("text", ["web", "-1", "0", "65536", "8000.5", "٨"])
def test_an_invalid_port_is_reported_with_its_variable(text: str) -> None:
    with pytest.raises(CannotStart, match="INBOX_PORT"):
        environment.ports({"INBOX_PORT": text})


def test_two_variables_with_the_same_port_are_both_reported() -> None:
    with pytest.raises(CannotStart, match="WEB_PORT and FLOWER_PORT are both 5555"):
        environment.ports({"WEB_PORT": "5555"})


def test_a_taken_port_is_reported_with_its_variable_and_a_fix(taken_port: int) -> None:
    with pytest.raises(CannotStart) as refusal:
        environment.check_free({"FLOWER_PORT": taken_port})
    assert f"Port {taken_port} is taken" in str(refusal.value)
    assert "make start FLOWER_PORT=" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_secrets_stay_and_ports_change() -> None:
    first = environment.generated({}, {}, DEFAULTS, SOCKETS)
    second = environment.generated({}, first, DEFAULTS | {"WEB_PORT": 9000, "INBOX_SMTP_PORT": 2525}, SOCKETS)
    assert second["SECRET_KEY"] == first["SECRET_KEY"]
    assert second["FLOWER_BASIC_AUTH"] == first["FLOWER_BASIC_AUTH"]
    assert first["SITE_URL"] == "http://localhost:8000"
    assert second["SITE_URL"] == "http://localhost:9000"
    assert second["EMAIL_URL"].endswith(":2525")


def test_two_installations_have_different_secrets() -> None:
    one, other = (environment.generated({}, {}, DEFAULTS, SOCKETS) for _ in range(2))
    assert one["SECRET_KEY"] != other["SECRET_KEY"]
    assert one["FLOWER_BASIC_AUTH"] != other["FLOWER_BASIC_AUTH"]
    assert len(one["SECRET_KEY"]) >= 50


def test_given_variables_are_not_generated() -> None:
    given = {"EMAIL_URL": "smtp://mail.example", "SITE_URL": "https://example.com"}
    assert not environment.generated(given, {}, DEFAULTS, SOCKETS).keys() & given.keys()


def test_given_servers_hold_in_every_terminal_until_the_next_start() -> None:
    given = {"DATABASE_URL": "postgres://db.example/name"}
    values = environment.generated(given, {}, DEFAULTS, SOCKETS)
    assert values["DATABASE_URL"] == given["DATABASE_URL"]
    assert environment.generated({}, values, DEFAULTS, SOCKETS)["DATABASE_URL"] != given["DATABASE_URL"]


def test_socket_paths_may_have_capitals_and_spaces() -> None:
    values = environment.generated({}, {}, DEFAULTS, SOCKETS)
    assert database_url(values["DATABASE_URL"])["HOST"] == str(SOCKETS)
    assert redis_url(values["REDIS_URL"]).url == "redis+socket:///home/Ann/Some%20Folder/valkey.sock"


def test_only_the_owner_can_read_the_file_and_it_keeps_every_character(tmp_path: Path) -> None:
    file = tmp_path / "env"
    for values in ({"A": "1"}, {"A": "us'er:pass word#\\$%/é\"", "B": ""}):
        environment.write(values, file)
        assert environment.read(file) == values
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["env"]


def test_the_shell_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("WEB_PORT=1111\nINBOX_PORT=2222\n")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setenv("WEB_PORT", "3333")
    monkeypatch.delenv("INBOX_PORT", raising=False)
    given = environment.given()
    assert (given["WEB_PORT"], given["INBOX_PORT"]) == ("3333", "2222")
