import signal
from pathlib import Path

import pytest
from supervisor.options import ServerOptions  # type: ignore[import-untyped]

from local import programs
from local.environment import PORTS
from local.programs import socket_dir
from local.servers import Command

SOCKETS = Path("/run/100 %/sockets")


def names(**given: str) -> list[str]:
    return [program.name for program in programs.programs(given, PORTS, SOCKETS)]


def test_servers_start_first_and_web_stops_first() -> None:
    assert names() == ["postgres", "valkey", "inbox", "flower", "beat", "worker", "web"]


def test_a_server_with_a_url_is_not_started() -> None:
    assert "postgres" not in names(DATABASE_URL="postgres://db.example/name")
    assert "valkey" not in names(REDIS_URL="redis://redis.example")


def test_all_processes_listen_on_this_machine_alone() -> None:
    commands = {program.name: " ".join(program.command.argv) for program in programs.programs({}, PORTS, SOCKETS)}
    assert "listen_addresses= " in commands["postgres"]
    assert "--port 0" in commands["valkey"]
    assert "--address=127.0.0.1" in commands["flower"]


def test_the_supervisor_reads_unusual_commands_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "STATE", tmp_path)
    monkeypatch.setattr(programs, "CONFIGURATION", tmp_path / "supervisord.conf")
    monkeypatch.setattr(programs, "LOGS", tmp_path / "log")
    command = Command(("/opt/my python", "-c", "100 %(here)s", ""), tmp_path)
    program = programs.Program("odd", command, patience=7, signal="INT")
    programs.write_configuration([program], SOCKETS)

    options = ServerOptions()
    options.realize(["--configuration", str(programs.CONFIGURATION)])
    (process,) = options.process_group_configs[0].process_configs
    assert process.command == "'/opt/my python' -c '100 %(here)s' ''"
    assert (process.stopwaitsecs, process.stopsignal) == (7, signal.SIGINT)
    assert process.stdout_logfile == str(programs.log_of("odd"))


def test_sockets_are_in_the_checkout_unless_its_path_is_too_long(tmp_path: Path) -> None:
    with socket_dir(Path("/") / tmp_path / "run") as near:
        assert near == tmp_path / "run"
    with socket_dir(tmp_path / ("long" * 30) / "run") as short:
        assert len(str(short)) < 100
        assert short.is_dir()
    assert not short.exists()
