"""Fixtures of the operators' pages."""

import pytest
from django.test import Client

from accounts.models import User


@pytest.fixture
def operator(db: None, client: Client) -> Client:
    client.force_login(User.objects.create_superuser("operator@example.com", name="Olga"))
    return client
