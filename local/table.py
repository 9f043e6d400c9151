"""Where everything is to be found, as the last words of a start."""

import sys
from collections.abc import Mapping
from pathlib import Path

from local.database import ADMIN


def table(values: Mapping[str, str], password: str | None = None) -> str:
    """One line a door. `values` are the variables in force, `password` the administrator's if it was made just now."""
    site = values["SITE_URL"].rstrip("/")
    rows = [
        ("Site", f"{site}/", ""),
        ("Admin", f"{site}/admin/", _login(password)),
        ("Flower", f"http://localhost:{values['FLOWER_PORT']}/", values["FLOWER_BASIC_AUTH"]),
        ("Inbox", f"http://localhost:{values['INBOX_PORT']}/", "every mail lands here"),
        ("SMTP", f"localhost:{values['INBOX_SMTP_PORT']}", "EMAIL_URL points here unless you set it"),
    ]
    width = max(len(address) for _, address, _ in rows)
    return "\n" + "\n".join(f"  {name:<7} {address:<{width}}  {note}".rstrip() for name, address, note in rows) + "\n"


def _login(password: str | None) -> str:
    if password:
        return f"{ADMIN}  password: {password}  (shown this once)"
    return f"{ADMIN}  (a new password: {_python()} manage.py changepassword {ADMIN})"


def _python() -> str:
    """This interpreter, as it is typed in the checkout."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
