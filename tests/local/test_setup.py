"""local/setup.sh on machines with different Pythons, which are small shell scripts here."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "local" / "setup.sh"
TOOLS = ("sh", "cat", "cksum", "dirname", "mkdir", "cp")

GOOD = """#!/bin/sh
case "$1 $2" in
    "-m venv") while [ $# -gt 1 ]; do shift; done; mkdir -p "$1/bin"; cp "$0" "$1/bin/python"; echo "{name}" >"$1/made-by" ;;
    "-m pip") [ -z "$PIP_FAILS" ] && echo installed >>pip-runs ;;
    --version*) echo "Python of {name}" ;;
esac
"""
TOO_OLD = "#!/bin/sh\nexit 1\n"
SHIM_THAT_REFUSES = "#!/bin/sh\necho 'pyenv: version 3.13 is not installed' >&2\nexit 127\n"
UV = """#!/bin/sh
[ "$1 $2" = "python find" ] && echo "{path}"
"""


class Machine:
    """A checkout, and a PATH with only the commands that a test adds."""

    def __init__(self, root: Path) -> None:
        self.checkout, self.home, self._bin = root / "check out", root / "home", root / "bin"
        for folder in (self.checkout / "local", self.home, self._bin):
            folder.mkdir(parents=True)
        for tool in TOOLS:
            (self._bin / tool).symlink_to(shutil.which(tool) or tool)
        shutil.copy(SCRIPT, self.checkout / "local")
        (self.checkout / ".python-version").write_text("3.13\n")
        for requirements in ("requirements.txt", "requirements-dev.txt"):
            (self.checkout / requirements).write_text("nothing==1\n")

    def has(self, name: str, script: str, folder: Path | None = None) -> Path:
        """Add a command to the PATH, or to another folder."""
        path = (folder or self._bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script.replace("{name}", path.name if folder is None else str(path)))
        path.chmod(0o755)
        return path

    def sets_up(self, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run the script from another folder."""
        return subprocess.run(
            [self._bin / "sh", self.checkout / "local" / "setup.sh"],
            env={"PATH": str(self._bin), "HOME": str(self.home)} | variables,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def chosen(self) -> str:
        return (self.checkout / ".venv" / "made-by").read_text().strip()

    @property
    def installations(self) -> int:
        runs = self.checkout / "pip-runs"
        return len(runs.read_text().splitlines()) if runs.exists() else 0


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_version_of_the_project_is_preferred(machine: Machine) -> None:
    for name in ("python3", "python3.12", "python3.13", "python3.14"):
        machine.has(name, GOOD)
    assert machine.sets_up().returncode == 0
    assert machine.chosen == "python3.13"


def test_an_old_python3_is_skipped(machine: Machine) -> None:
    machine.has("python3", TOO_OLD)
    machine.has("python3.12", GOOD)
    assert machine.sets_up().returncode == 0
    assert machine.chosen == "python3.12"


def test_a_command_named_python_is_enough(machine: Machine) -> None:
    machine.has("python", GOOD)
    assert machine.sets_up().returncode == 0
    assert machine.chosen == "python"


def test_pyenv_versions_are_used_when_their_shims_fail(machine: Machine) -> None:
    for name in ("python3.13", "python3", "python"):
        machine.has(name, SHIM_THAT_REFUSES)
    machine.has("python", TOO_OLD, machine.home / ".pyenv" / "versions" / "3.9.18" / "bin")
    python = machine.has("python", GOOD, machine.home / ".pyenv" / "versions" / "3.12.1" / "bin")
    assert machine.sets_up().returncode == 0
    assert machine.chosen == str(python)


def test_a_python_of_uv_is_found(machine: Machine) -> None:
    python = machine.has("python", GOOD, machine.home / "uv" / "bin")
    machine.has("uv", UV.replace("{path}", str(python)))
    assert machine.sets_up().returncode == 0
    assert machine.chosen == str(python)


def test_a_given_python_is_the_only_candidate(machine: Machine) -> None:
    machine.has("python3.13", GOOD)
    machine.has("python3", TOO_OLD)
    python = machine.has("python", GOOD, machine.home / "my python")
    assert machine.sets_up(PYTHON="python3").returncode == 1
    assert machine.sets_up(PYTHON=str(python)).returncode == 0
    assert machine.chosen == str(python)


def test_a_missing_python_is_reported_in_one_line(machine: Machine) -> None:
    machine.has("python3", TOO_OLD)
    machine.has("python3.13", SHIM_THAT_REFUSES)
    done = machine.sets_up()
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Python 3.12, 3.13 or 3.14")
    assert done.stderr.count("\n") == 1
    assert not (machine.checkout / ".venv").exists()


def test_a_second_run_installs_nothing(machine: Machine) -> None:
    machine.has("python3.13", GOOD)
    assert "Installing" in machine.sets_up().stdout
    assert machine.sets_up().stdout == ""
    assert machine.installations == 1


@pytest.mark.parametrize("changed", ["requirements.txt", "requirements-dev.txt"])
def test_a_changed_lock_is_installed(machine: Machine, changed: str) -> None:
    machine.has("python3.13", GOOD)
    machine.sets_up()
    (machine.checkout / changed).write_text("something==2\n")
    assert machine.sets_up().returncode == 0
    assert machine.installations == 2


def test_a_failed_installation_is_repeated(machine: Machine) -> None:
    machine.has("python3.13", GOOD)
    assert machine.sets_up(PIP_FAILS="1").returncode != 0
    assert machine.sets_up().returncode == 0
    assert machine.installations == 1


def test_an_environment_without_its_python_is_made_again(machine: Machine) -> None:
    machine.has("python3.13", GOOD)
    machine.sets_up()
    (machine.checkout / ".venv" / "bin" / "python").unlink()
    assert machine.sets_up().returncode == 0
    assert os.access(machine.checkout / ".venv" / "bin" / "python", os.X_OK)


def test_the_environment_may_be_in_another_folder(machine: Machine) -> None:
    machine.has("python3.13", GOOD)
    assert machine.sets_up(VENV="../elsewhere").returncode == 0
    assert (machine.checkout.parent / "elsewhere" / "made-by").exists()
    assert not (machine.checkout / ".venv").exists()
