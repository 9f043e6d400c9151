"""A user of Valkey with few permissions: those that docs/deploy.md lists, or others."""

import re
from pathlib import Path

import redis

from tests.servers import Valkey

PAGE = Path(__file__).parent.parent / "docs" / "deploy.md"
WORKING, CONTROL = (
    [rule for rule in line.split() if rule[0] in "~&+"]
    for line in re.findall(r"^    ACL SETUSER shop (.+)$", PAGE.read_text(), re.MULTILINE)
)
"""The rules of the page: for workers, and for remote control and Flower."""
LOGIN = "shop:secret"


def permit(client: redis.Redis, *rules: str) -> None:
    """Let the user do this, and nothing else."""
    name, _, password = LOGIN.partition(":")
    client.execute_command(  # type: ignore[no-untyped-call]
        "ACL", "SETUSER", name, "reset", "resetchannels", "on", f">{password}", *rules
    )


def url(valkey: Valkey, options: str = "") -> str:
    """Return the REDIS_URL of the user."""
    return f"redis+socket://{LOGIN}@{valkey.socket}{options}"


class Restricted(Valkey):
    """A Valkey whose clients may do what the page lists."""

    def start(self) -> None:
        super().start()
        with self.client() as client:
            permit(client, *WORKING, *CONTROL)

    @property
    def environment(self) -> dict[str, str]:
        return {"REDIS_URL": url(self)}

    def refused(self) -> list[str]:
        """Return the objects that were refused so far, and forget them. That clients may not give their name is harmless."""
        with self.client() as client:
            objects = {str(entry["object"]) for entry in client.acl_log()}
            client.acl_log_reset()
        return sorted(objects - {"client|setinfo", "client"})
