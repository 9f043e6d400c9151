#!/bin/sh
# Make the virtual environment $VENV (.venv) with all packages of requirements.txt and requirements-dev.txt.
# Do nothing if it is up to date. Needs a POSIX shell and a Python; $PYTHON names the only one to use.
set -eu
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}

suits() { # whether $1 is a Python that has all locked wheels and can make environments
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 12) <= sys.version_info < (3, 15))' >/dev/null 2>&1
}

candidates() { # one command or path per line, the best one first
    if [ -n "${PYTHON:-}" ]; then
        printf '%s\n' "$PYTHON"
        return
    fi
    versions="$(cat .python-version) 3.13 3.12 3.14"
    for version in $versions; do printf 'python%s\n' "$version"; done
    printf '%s\n' python3 python
    # A shim of pyenv refuses versions that are not enabled in this folder, so look for its Pythons directly.
    for version in $versions; do
        for path in "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$version"*/bin/python; do printf '%s\n' "$path"; done
    done
    uv python find --system --no-python-downloads '>=3.12,<3.15' 2>/dev/null || true
}

find_python() {
    candidates | while IFS= read -r candidate; do
        if suits "$candidate"; then
            printf '%s\n' "$candidate"
            break
        fi
    done
}

if ! suits "$VENV/bin/python"; then
    python=$(find_python)
    if [ -z "$python" ]; then
        echo "Python 3.12, 3.13 or 3.14 with its venv module is needed and was not found:" \
            "install one (on Debian and Ubuntu: apt install python3-venv), or give its path: make start PYTHON=/path/to/python" >&2
        exit 1
    fi
    echo "Making $VENV with $("$python" --version)"
    if [ -f "$VENV/pyvenv.cfg" ]; then
        "$python" -m venv --clear "$VENV" # its Python is gone; only an environment is ever cleared
    else
        "$python" -m venv "$VENV"
    fi
fi

wanted=$(cat requirements.txt requirements-dev.txt | cksum)
if [ "$(cat "$VENV/.installed" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing requirements.txt and requirements-dev.txt into $VENV (once, about a minute)"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
        -r requirements.txt -r requirements-dev.txt
    echo "$wanted" >"$VENV/.installed" # written last, so an interrupted installation is repeated
fi
