"""What the pages of this app share."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods

ADDRESS_IN_SESSION = "address_to_confirm"
"""What the person typed last, known or not; pages repeat it to her."""

PAGE_WITH_FORM = ["get", "head", "post"]
"""For Django's own views, which would take PUT for POST."""
page_with_form = require_http_methods([method.upper() for method in PAGE_WITH_FORM])


def page_of_link(request: HttpRequest, template: str, context: dict[str, Any], status: int = 200) -> HttpResponse:
    """A page whose address is a secret.

    Not "no-referrer", which would do for the secret as well: under it browsers send `Origin: null` with the button's POST,
    which the CSRF check rightly refuses.
    """
    response = render(request, template, context, status=status)
    response["Referrer-Policy"] = "strict-origin"
    return response
