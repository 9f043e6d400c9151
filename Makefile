# `make` alone lists what there is. Everything runs in the virtual environment $(VENV), which is made when it is missing.
VENV ?= .venv
PYTHON_IN_VENV = $(VENV)/bin/python
# mypy's Django plugin loads the settings, which want values; nothing is connected to.
SETTINGS_FOR_MYPY = ENV_FILES= DEBUG=1 DATABASE_URL=postgres://lint.invalid/none REDIS_URL=redis://lint.invalid \
	EMAIL_URL=smtp://lint.invalid

.DEFAULT_GOAL := help
.PHONY: help setup start restart stop ctl test conformance faults bench lint docs lock

help: ## This list.
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## The virtual environment, with everything that is locked; start, test and lint do it themselves.
	@VENV='$(VENV)' sh local/setup.sh

start: setup ## Everything on this machine, with a table of URLs; Ctrl-C stops it in order.
	@$(PYTHON_IN_VENV) -m local start

restart: setup ## Restarts web, worker, beat and Flower; the servers stay.
	@$(PYTHON_IN_VENV) -m local restart

stop: ## Stops everything in order, from any terminal.
	@if [ -x $(PYTHON_IN_VENV) ]; then $(PYTHON_IN_VENV) -m local stop; else echo 'Postcommit is not running here.'; fi

ctl: setup ## One process: make ctl ARGS='stop postgres', ARGS=status, ARGS='tail -f worker'.
	@test -f .local/supervisord.conf || { echo 'Postcommit was never started here: make start.' >&2; exit 1; }
	@$(PYTHON_IN_VENV) -m supervisor.supervisorctl -c .local/supervisord.conf $(ARGS)

test: setup ## The tests; ARGS go to pytest: make test ARGS='tests/mailer -k retry'.
	@$(PYTHON_IN_VENV) -m pytest -n auto --maxprocesses 4 $(ARGS)

conformance: setup ## Django's own tests of mail, through the outbox; downloads Django's source into .local/.
	@mkdir -p .local/django
	@version=$$($(PYTHON_IN_VENV) -c 'import django; print(django.__version__)'); \
	test -d .local/django/django-$$version/tests/mail || { \
		$(PYTHON_IN_VENV) -m pip download --quiet --no-binary :all: --no-deps --dest .local/django Django==$$version && \
		tar -xzf .local/django/django-$$version.tar.gz -C .local/django; } && \
	DJANGO_SOURCE=.local/django/django-$$version $(PYTHON_IN_VENV) -m pytest -m long tests/mailer/test_djangos_own_tests.py $(ARGS)

faults: setup ## Hundreds of sign-ups under each fault, with a table; SIGN_UPS, SEED and ARGS narrow it.
	@$(PYTHON_IN_VENV) -m pytest -m faults -s -p no:randomly tests/faults $(ARGS)

bench: setup ## What things cost, with a million rows; minutes.
	@ROWS=1000000 BUILDS=400 $(PYTHON_IN_VENV) -m pytest -s -p no:randomly -m bench $(ARGS)

lint: setup ## ruff, mypy and the direction of imports.
	@$(PYTHON_IN_VENV) -m ruff check
	@$(PYTHON_IN_VENV) -m ruff format --check
	@$(SETTINGS_FOR_MYPY) $(PYTHON_IN_VENV) -m mypy
	@$(VENV)/bin/lint-imports

docs: setup ## docs/reference.md, from the docstrings.
	@$(PYTHON_IN_VENV) -m docs.make_reference

lock: ## Locks requirements.in and requirements-dev.in with hashes; needs uv.
	uv pip compile --quiet --universal --generate-hashes --python-version 3.12 --custom-compile-command 'make lock' \
		requirements.in --output-file requirements.txt
	uv pip compile --quiet --universal --generate-hashes --python-version 3.12 --custom-compile-command 'make lock' \
		requirements-dev.in --output-file requirements-dev.txt
