"""Logging: JSON in production, readable lines in development, and no address or secret in either.

All loggers use the standard library's handlers, so the lines of Django, Celery and gunicorn have the same form.
"""

from typing import Any

import structlog
from structlog import stdlib
from structlog.typing import EventDict, Processor, WrappedLogger

from mailer.text import mask


class Masking:
    """Mask the finished line of another renderer, so that tracebacks are masked too.

    That renderer must not escape letters: `mask` would not find an address with an umlaut.
    """

    def __init__(self, renderer: Processor) -> None:
        self.renderer = renderer

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> str:
        line = mask(str(self.renderer(logger, name, event)))
        return line.encode("utf-8", "backslashreplace").decode()  # no stream can write lone surrogates


SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    stdlib.add_log_level,
    stdlib.add_logger_name,
    stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]


def configure(*, level: str, as_json: bool) -> dict[str, Any]:
    """Configure structlog. Return the matching LOGGING dictionary for Django and gunicorn."""
    structlog.configure(
        processors=[stdlib.filter_by_level, *SHARED, stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=stdlib.LoggerFactory(),
        wrapper_class=stdlib.BoundLogger,
    )
    rendering: list[Processor] = (
        [structlog.processors.format_exc_info, Masking(structlog.processors.JSONRenderer(ensure_ascii=False))]
        if as_json
        else [Masking(structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback))]
    )
    no_handlers = {"handlers": [], "level": "INFO", "propagate": True}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "structured": {
                "()": stdlib.ProcessorFormatter,
                "foreign_pre_chain": SHARED,
                "processors": [stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
            }
        },
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "structured"}},
        "root": {"handlers": ["console"], "level": level},
        "loggers": {
            # Celery logs every task that is due, received and finished. Our own lines say the same, with the message's id.
            **{name: {"level": "WARNING"} for name in ("celery.beat", "celery.worker.strategy", "celery.app.trace")},
            # These have their own handlers by default.
            **dict.fromkeys(("django", "django.server", "gunicorn.error"), no_handlers),
        },
    }
