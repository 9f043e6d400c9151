"""A kind of e-mail that only the fault tests have."""

import os
import signal
from typing import ClassVar, Self

from mailer.email import Email, Recipient


class Poison(Email):
    """Kills the process that prepares it, as a message does that takes all memory, or a library that crashes."""

    template: ClassVar = "email/test"

    address: str

    def recipient(self) -> Recipient:
        return Recipient(self.address)

    def is_wanted(self) -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        return True

    @classmethod
    def sample(cls) -> Self:
        return cls("poison@example.com")
