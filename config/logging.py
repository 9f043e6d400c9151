"""What a log line looks like: JSON in production, a readable line in development, and nothing personal in either.

Everything goes through the standard library's handlers, so Django, Celery and gunicorn come out in the same form.
"""

from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from mailer.text import mask


class Masking:
    """Renders through another renderer and masks the finished line, so that a traceback is covered as well. The renderer
    leaves letters as they are, or an address with an umlaut would not be known for one."""

    def __init__(self, renderer: Processor) -> None:
        self.renderer = renderer

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> str:
        line = mask(str(self.renderer(logger, name, event)))
        return line.encode("utf-8", "backslashreplace").decode()  # halves of characters, which no stream can write


SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]


def configure(*, level: str, as_json: bool) -> dict[str, Any]:
    """Configures structlog and returns the matching LOGGING dictionary for Django and gunicorn."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    rendering: list[Processor] = (
        [structlog.processors.format_exc_info, Masking(structlog.processors.JSONRenderer(ensure_ascii=False))]
        if as_json
        else [Masking(structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback))]
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "structured": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": SHARED,
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
            }
        },
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "structured"}},
        "root": {"handlers": ["console"], "level": level},
        "loggers": {
            # Celery tells of every task that is due, received and finished; our own lines tell it with the id of the mail.
            "celery.beat": {"level": "WARNING"},
            "celery.worker.strategy": {"level": "WARNING"},
            "celery.app.trace": {"level": "WARNING"},
            "django": {"handlers": [], "level": "INFO", "propagate": True},
            "django.server": {"handlers": [], "level": "INFO", "propagate": True},
            "gunicorn.error": {"handlers": [], "level": "INFO", "propagate": True},
        },
    }
