"""The staff page "Send a test e-mail"."""

from django import forms
from django.contrib import messages
from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from mailer import outbox
from mailer.emails import TestEmail
from mailer.models import Message


class TestEmailForm(forms.Form):
    """Ask for the address of a test e-mail."""

    __test__ = False  # not a test class for pytest

    address = forms.EmailField(label="Send to", max_length=254, widget=forms.EmailInput(attrs={"class": "vTextField"}))


def send_test_page(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """Ask for an address, enqueue the test e-mail and redirect to its message."""
    sent_by = request.user.get_username()
    form = TestEmailForm(request.POST or None, initial={"address": sent_by})
    if form.is_valid():
        message = outbox.enqueue(TestEmail(form.cleaned_data["address"], sent_by))
        messages.success(request, f"Message {message.pk} is queued; reload this page to watch it.")
        return redirect("admin:mailer_message_change", message.pk)
    context = site.each_context(request) | {"form": form, "title": "Send a test e-mail", "opts": Message._meta}
    return render(request, "admin/mailer/message/send_test.html", context)
