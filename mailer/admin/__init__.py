"""The pages for operators in Django's admin, one module for each page."""

from mailer.admin import message, stream, suppression, transport  # noqa: F401 - importing registers them
