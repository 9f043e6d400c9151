"""What a column of text can hold. Imports nothing, so that the transports can use it before Django's models are there."""


def storable(text: str) -> str:
    """The text without what PostgreSQL does not take: NUL, and halves of characters, which mail and file names can carry."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
