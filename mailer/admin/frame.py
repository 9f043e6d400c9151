"""A mail's HTML inside a page: a document of its own in a sandboxed frame, which runs nothing and loads nothing."""

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.csp import CSP, build_policy

from mailer.composing.previews import Preview

FRAMED: Mapping[str, Any] = {
    "default-src": [CSP.NONE],
    "style-src": [CSP.UNSAFE_INLINE],  # the styles of a mail stand in its elements
    "img-src": ["data:"],  # inline images; a remote one would tell a stranger that the mail was looked at
    "form-action": [CSP.NONE],
    "base-uri": [CSP.NONE],
    "frame-ancestors": [CSP.SELF],
    "sandbox": True,
}


def framed(preview: Preview) -> HttpResponse:
    """Answer with the HTML of a mail, for a frame of ours."""
    return _in_frame(HttpResponse(preview.page))


def framed_words(request: HttpRequest, words: str) -> HttpResponse:
    """Answer with the words why there is no mail to show."""
    return _in_frame(render(request, "admin/mailer/no_mail.html", {"words": words}))


def _in_frame(response: HttpResponse) -> HttpResponse:
    # Here and not by Django's middleware, which a project may lack: this page has scripts of strangers, and a URL of its own.
    response[str(CSP.HEADER_ENFORCE)] = build_policy(FRAMED)
    response["X-Frame-Options"] = "SAMEORIGIN"
    return response


def page_with_frames(request: HttpRequest, template: str, context: Mapping[str, Any]) -> HttpResponse:
    """Render a page that shows mails in frames."""
    return allow_frames(render(request, template, context))


def allow_frames[Response: HttpResponse](response: Response) -> Response:
    """Let a page show frames of this site, and keep the rest of the site's content policy."""
    response._csp_config = {**getattr(settings, "SECURE_CSP", {}), "frame-src": [CSP.SELF]}  # type: ignore[attr-defined]
    return response
