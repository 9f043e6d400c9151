"""System checks: `manage.py check --tag postcommit` for settings, `--tag emails` for the kinds of e-mail.

With `--deploy`, the first one also asks the broker.
"""

from mailer.checks import broker, kinds, settings  # noqa: F401 - importing registers them
