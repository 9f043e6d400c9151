"""Refuse a request with files before they are stored: no page of the site accepts any.

Django's CSRF check reads the whole body to find its token, and would write the files to disk first.
"""

from typing import Any, NoReturn

from django.core.exceptions import RequestDataTooBig
from django.core.files.uploadhandler import FileUploadHandler


class RefuseFiles(FileUploadHandler):
    """An upload handler that refuses the request (400) at the first file."""

    def new_file(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise RequestDataTooBig("files are not accepted")

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        return None

    def file_complete(self, file_size: int) -> None:
        return None
