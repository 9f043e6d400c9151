"""The steps of the image, run without Docker on the files that the image would get."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployment import files

TEXT = files.DOCKERFILE.read_text()
INSTRUCTIONS = re.sub(r"\\\n\s*", "", TEXT).splitlines()
SCRIPTS = Path(sys.executable).parent


def instructions(keyword: str) -> list[str]:
    return [line.removeprefix(keyword).strip() for line in INSTRUCTIONS if line.startswith(keyword + " ")]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that .dockerignore includes."""
    root = tmp_path_factory.mktemp("image")
    lines = (files.ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    for name in (line[1:] for line in lines if line.startswith("!")):
        source = files.ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)
    return root


def run(image: Path, *command: str, **values: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in that folder, with only the variables of the image."""
    return subprocess.run(
        command,
        env={"PATH": f"{SCRIPTS}{os.pathsep}{os.defpath}", "ENV_FILES": "", "PORT": "8000", **values},
        cwd=image,
        capture_output=True,
        text=True,
        check=False,
    )


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([SCRIPTS / "hadolint", files.DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.returncode == 0


def test_the_base_is_one_exact_version_of_the_projects_python() -> None:
    assert {line.split()[0] for line in instructions("FROM")} == {"${PYTHON_IMAGE}"}
    [default] = instructions("ARG")
    wanted = (files.ROOT / ".python-version").read_text().strip()
    assert re.fullmatch(rf"PYTHON_IMAGE=python:{re.escape(wanted)}\.\d+-slim-\w+", default)


def test_only_production_packages_are_installed_and_hashes_are_checked() -> None:
    pip = [line for line in instructions("RUN") if "pip install" in line]
    assert len(pip) == 1
    assert "--require-hashes" in pip[0]
    assert "requirements-dev" not in TEXT


def test_it_does_not_run_as_root_and_receives_signals_directly() -> None:
    assert instructions("USER") == ["10001"]
    assert instructions("CMD") == ['["gunicorn", "config.wsgi"]']


def test_every_variable_is_used() -> None:
    named = {name for line in instructions("ENV") for name in re.findall(r"(\w+)=", line)}
    assert named <= files.read_by_the_project().union(*files.READ_BY_OTHERS.values())
    assert not named & set(files.SECRETS)


def test_static_files_are_collected_in_the_image(image: Path) -> None:
    (collect,) = (line for line in instructions("RUN") if "collectstatic" in line)
    done = run(image, "sh", "-c", collect)
    assert done.returncode == 0, done.stderr
    assert (image / "static-collected" / "staticfiles.json").exists()


def test_web_and_celery_load_in_the_image(image: Path) -> None:
    values = files.environment("web", files.SECRETS)
    for command in (["gunicorn", "--check-config", "config.wsgi"], ["celery", "-A", "config", "report"]):
        done = run(image, sys.executable, "-m", *command, **values)
        assert done.returncode == 0, done.stderr


def test_the_image_contains_no_file_of_a_local_installation(image: Path) -> None:
    assert not {path.name for path in image.iterdir()} & {".env", ".local", ".git", "local", "tests"}
    sources = [path for path in image.rglob("*.py") if "/migrations/" not in str(path)]
    assert [path for path in sources if re.search(r"^\s*(from|import) local\b", path.read_text(), re.MULTILINE)] == []
