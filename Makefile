# `make` lists the targets. All of them use the virtual environment $(VENV), which is made if it is missing.
VENV ?= .venv
PYTHON_IN_VENV = $(VENV)/bin/python
# mypy's Django plugin loads the settings, which need values. It opens no connection.
SETTINGS_FOR_MYPY = ENV_FILES= DEBUG=1 DATABASE_URL=postgres://lint.invalid/none REDIS_URL=redis://lint.invalid \
	EMAIL_URL=smtp://lint.invalid
SEQUENCES = tests/accounts/test_owner_and_attacker.py tests/mailer/delivery/test_state_machine.py

.DEFAULT_GOAL := help
.PHONY: help setup start restart stop ctl test drills conformance faults containers sequences bench lint docs lock

help: ## Show this list.
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## Make the virtual environment from the lock files; other targets do it themselves.
	@VENV='$(VENV)' sh local/setup.sh

start: setup ## Run everything on this machine and show a table of URLs; Ctrl-C stops it in order.
	@$(PYTHON_IN_VENV) -m local start

restart: setup ## Restart web, worker, beat and Flower; the servers keep running.
	@$(PYTHON_IN_VENV) -m local restart

stop: ## Stop everything in order, from any terminal.
	@if [ -x $(PYTHON_IN_VENV) ]; then $(PYTHON_IN_VENV) -m local stop; else echo 'Postcommit is not running here.'; fi

ctl: setup ## Control one process: make ctl ARGS='stop postgres', ARGS=status, ARGS='tail -f worker'.
	@test -f .local/supervisord.conf || { echo 'Postcommit was never started here: make start.' >&2; exit 1; }
	@$(PYTHON_IN_VENV) -m supervisor.supervisorctl -c .local/supervisord.conf $(ARGS)

# Many tests wait for processes, so twice as many run at a time as there are cores. Bytecode halves the start of each process.
# A module stays in one process, because its tests share what takes seconds to make; tests/conftest.py puts the longest first.
test: setup ## Run the tests (minutes); ARGS go to pytest: make test ARGS='tests/mailer -k retry'.
	@PYTHONDONTWRITEBYTECODE= $(PYTHON_IN_VENV) -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

drills: setup ## Run the tests that take long for what they show: outages with real processes, a browser (minutes).
	@PYTHONDONTWRITEBYTECODE= $(PYTHON_IN_VENV) -m pytest -n auto --dist loadfile --no-loadscope-reorder -m 'drill and not faults' $(ARGS)

conformance: setup ## Run Django's own mail tests through the outbox (minutes); downloads Django into .local/.
	@mkdir -p .local/django
	@version=$$($(PYTHON_IN_VENV) -c 'import django; print(django.__version__)'); \
	test -d .local/django/django-$$version/tests/mail || { \
		$(PYTHON_IN_VENV) -m pip download --quiet --no-binary :all: --no-deps --dest .local/django Django==$$version && \
		tar -xzf .local/django/django-$$version.tar.gz -C .local/django; } && \
	DJANGO_SOURCE=.local/django/django-$$version $(PYTHON_IN_VENV) -m pytest -m long tests/mailer/test_djangos_own_tests.py $(ARGS)

faults: setup ## Sign up hundreds of users under each fault (about a minute a row); SIGN_UPS, SEED, POOL=threads and ARGS change it.
	@$(PYTHON_IN_VENV) -m pytest -m faults -s -p no:randomly tests/faults tests/mailer/delivery/test_with_postfix.py $(ARGS)

containers: setup ## Build the image and run docker-compose.yml on Docker: sign-up, outages, an orderly stop (minutes).
	@docker info >/dev/null
	@$(PYTHON_IN_VENV) -m pytest -m long -s -p no:randomly tests/deployment/test_containers.py $(ARGS)

sequences: setup ## Take 2,000 steps in the machines of accounts and delivery (minutes); EXAMPLES, STEPS and ARGS change it.
	@EXAMPLES=$${EXAMPLES:-80} STEPS=$${STEPS:-25} $(PYTHON_IN_VENV) -m pytest $(SEQUENCES) $(ARGS)

bench: setup ## Measure ours beside what people use today (minutes): make bench ARGS=--quick, ARGS=--help.
	@cmp -s tests/bench/peers/requirements.txt .local/bench/requirements.txt || { \
		$(PYTHON_IN_VENV) -m venv --clear .local/bench && \
		.local/bench/bin/python -m pip install --quiet --require-hashes -r tests/bench/peers/requirements.txt && \
		cp tests/bench/peers/requirements.txt .local/bench/; }
	@$(PYTHON_IN_VENV) -m tests.bench $(ARGS)

lint: setup ## Run ruff, mypy and import-linter (a minute).
	@$(PYTHON_IN_VENV) -m ruff check
	@$(PYTHON_IN_VENV) -m ruff format --check
	@$(SETTINGS_FOR_MYPY) $(PYTHON_IN_VENV) -m mypy
	@$(VENV)/bin/lint-imports

docs: setup ## Write docs/reference.md from the docstrings.
	@$(PYTHON_IN_VENV) -m docs.make_reference

lock: ## Lock requirements.in, requirements-dev.in and those of the bench with hashes; needs uv.
	uv pip compile --quiet --universal --generate-hashes --python-version 3.12 --custom-compile-command 'make lock' \
		requirements.in --output-file requirements.txt
	uv pip compile --quiet --universal --generate-hashes --python-version 3.12 --custom-compile-command 'make lock' \
		requirements-dev.in --output-file requirements-dev.txt
	uv pip compile --quiet --universal --generate-hashes --python-version 3.12 --custom-compile-command 'make lock' \
		tests/bench/peers/requirements.in --output-file tests/bench/peers/requirements.txt
