"""Writes docs/reference.md from the docstrings: `make docs`."""

from pathlib import Path
from typing import Any

import griffe
import griffe2md

PAGE = Path(__file__).with_name("reference.md")
OPENING = """# Reference

Made from the docstrings by `make docs`. How the parts work together stands in [architecture](architecture.md).

"""
OBJECTS = {
    "mailer.email": ["Email", "Recipient", "Stream", "WhenUncertain"],
    "mailer.attachments": ["Attachment", "StoredFile"],
    "mailer.outbox": ["enqueue", "enqueue_many", "cancel", "resend", "retry", "cancel_all", "messages_of"],
    "mailer.signals": ["message_settled"],
    "mailer.testing.outbox": ["Outbox", "Mail"],
}
OPTIONS: dict[str, Any] = {
    "summary": False,
    "show_signature_annotations": True,
    "members_order": "source",
    "show_root_full_path": True,
    "show_root_members_full_path": False,
    "show_object_full_path": False,
    "line_length": 120,
}


def reference() -> str:
    """The page."""
    options = griffe2md.default_config | OPTIONS
    sections = [
        griffe2md.render_object_docs(griffe.load(module, search_paths=[PAGE.parents[1]])[name], options)
        for module, names in OBJECTS.items()
        for name in names
    ]
    return OPENING + "\n\n".join(section.strip() for section in sections) + "\n"


if __name__ == "__main__":
    PAGE.write_text(reference())
