"""Pages for operators inside the Django admin: one module a page."""

from mailer.admin import message, suppression, transport  # noqa: F401 - importing registers them
