import uuid

import pytest
from django.test import Client
from structlog.testing import capture_logs


@pytest.mark.django_db
def test_a_line_holds_the_route_and_nothing_of_the_path(client: Client) -> None:
    link = uuid.uuid4()
    with capture_logs() as lines:
        client.get(f"/accounts/verify/{link}/secret-code/")
        client.get("/healthz")

    [line] = [entry for entry in lines if entry["event"] == "request"]
    assert line["route"] == "accounts/verify/<uuid:verification_id>/<str:code>/"
    assert (line["method"], line["status"]) == ("GET", 404)
    assert str(link) not in str(lines)
