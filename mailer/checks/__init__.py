"""System checks: `manage.py check --tag postcommit` for settings, `--tag emails` for the kinds of e-mail."""

from mailer.checks import kinds, settings  # noqa: F401 - importing registers them
