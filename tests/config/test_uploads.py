"""Uploaded files are refused."""

import tempfile
from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from pytest_django import Settings

pytestmark = pytest.mark.django_db

PAGES = (
    "/accounts/login/",
    "/accounts/signup/",
    "/accounts/verify/resend/",
    "/accounts/password-reset/",
    "/admin/login/",
)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("checked", [True, False], ids=["without a token", "past the token"])
def test_a_file_is_refused_and_nothing_is_stored(
    page: str, checked: bool, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.FILE_UPLOAD_TEMP_DIR = str(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stranger = Client(enforce_csrf_checks=checked)
    stranger.cookies["csrftoken"] = "a" * 32

    answer = stranger.post(page, {"username": "a", "file": SimpleUploadedFile("a.bin", b"x" * 8_000_000)})

    assert answer.status_code == 400
    assert list(tmp_path.iterdir()) == []


def test_a_form_without_files_works_as_multipart() -> None:
    assert Client().post("/accounts/login/", {"username": "ann@example.com", "password": "wrong"}).status_code == 200
