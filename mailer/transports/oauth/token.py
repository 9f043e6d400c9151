"""A token, or the reason why there is none."""

from datetime import timedelta


class Token(str):
    """An access token, used in place of a password."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Token('***')"


class NoToken(OSError):
    """There is no token. The text says why, and names no secret."""

    def __init__(self, text: str, *, misconfigured: bool = False, pause: timedelta | None = None) -> None:
        super().__init__(text)
        self.misconfigured = misconfigured
        """Whether a person must act."""
        self.pause = pause
        """The time that the endpoint asked for."""
