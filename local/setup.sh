#!/bin/sh
# Makes the virtual environment $VENV (.venv) with everything that requirements.txt and requirements-dev.txt lock.
# Does nothing when that is done already. Needs a POSIX shell and some Python; $PYTHON says which, if it must be that one.
set -eu
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}

suits() { # whether the command $1 is a Python that all the locked wheels exist for, and that can make environments
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 12) <= sys.version_info < (3, 15))' >/dev/null 2>&1
}

candidates() { # one command or path a line, the best one first
    if [ -n "${PYTHON:-}" ]; then
        printf '%s\n' "$PYTHON"
        return
    fi
    versions="$(cat .python-version) 3.13 3.12 3.14"
    for version in $versions; do printf 'python%s\n' "$version"; done
    printf '%s\n' python3 python
    # A shim of pyenv refuses every version that is not switched on in this folder, so its Pythons are asked directly.
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
            "install one (on Debian and Ubuntu: apt install python3-venv), or name it: make start PYTHON=/path/to/python" >&2
        exit 1
    fi
    echo "Making $VENV with $("$python" --version)"
    if [ -f "$VENV/pyvenv.cfg" ]; then
        "$python" -m venv --clear "$VENV" # left by a Python that is gone; nothing but an environment is ever cleared
    else
        "$python" -m venv "$VENV"
    fi
fi

wanted=$(cat requirements.txt requirements-dev.txt | cksum)
if [ "$(cat "$VENV/.installed" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing what requirements.txt and requirements-dev.txt lock into $VENV (once, about a minute)"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
        -r requirements.txt -r requirements-dev.txt
    echo "$wanted" >"$VENV/.installed" # written last: an interrupted installation is done again
fi
