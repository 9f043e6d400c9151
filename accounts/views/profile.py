"""Pages on which users manage their own account."""

from functools import partial
from typing import cast
from uuid import UUID

from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone, translation
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from accounts import deletion, devices, email_change, throttling
from accounts.forms import EmailChangeForm, PasswordForm, ProfileForm
from accounts.links import LinkState
from accounts.models import User
from accounts.network import network_of
from accounts.sessions import end_sessions, hash_key, log_in_of
from accounts.views.common import page_of_link, page_with_form, refuse, use_link
from accounts.views.log_in import remember_language
from mailer import outbox


@page_with_form
@login_required
def profile(request: HttpRequest) -> HttpResponse:
    user = _user(request)
    form = ProfileForm(request.POST or None, instance=user)
    if not form.is_valid():
        context = {
            "form": form,
            "sessions": user.sessions.filter(expire_date__gt=timezone.now()).order_by("-logged_in_at"),
            "session_key": hash_key(request.session.session_key),
            "no_mail": outbox.why_no_mail(user.email),
        }
        return render(request, "accounts/profile.html", context)
    # Not form.save(): it writes the whole row and would revert a password reset that happened in between.
    User.objects.filter(pk=user.pk).update(**form.cleaned_data)
    with translation.override(user.language):
        messages.success(request, _("Saved."))
    response = redirect("profile")
    remember_language(response, user)
    return response


@require_POST
@login_required
def end_other_sessions(request: HttpRequest) -> HttpResponse:
    end_sessions(_user(request), except_key=request.session.session_key)
    messages.success(request, _("You are logged out everywhere else."))
    return redirect("profile")


@page_with_form
@sensitive_post_parameters()
@login_required
def delete_account(request: HttpRequest) -> HttpResponse:
    form = PasswordForm(request.POST or None, user=_user(request), log_in=log_in_of(request.session))
    if not form.is_valid():
        return render(request, "accounts/delete_account.html", {"form": form})
    user = form.user
    logout(request)
    if deletion.delete(user):
        messages.success(request, _("Your account has been deleted."))
    return redirect("home")


@page_with_form
@sensitive_post_parameters()
@login_required
def change_email(request: HttpRequest) -> HttpResponse:
    form = EmailChangeForm(request.POST or None, user=_user(request), log_in=log_in_of(request.session))
    if not form.is_valid():
        return render(request, "accounts/email_change.html", {"form": form})
    if not throttling.may_ask(network_of(request)):
        return refuse(request, "accounts/email_change.html", form)
    email = form.cleaned_data["email"]
    if not email_change.request(form.user, email):
        return redirect("email_change")
    context = {"address": email, "mail_is_slow": outbox.is_slow(), "no_mail": outbox.why_no_mail(email)}
    return render(request, "accounts/email_change_sent.html", context)


@page_with_form
def confirm_change(request: HttpRequest, change_id: UUID, code: str) -> HttpResponse:
    """GET shows a button. POST changes the address; a browser that is not logged in to the account needs its password."""
    link = email_change.confirm_link(change_id, code)
    is_mine = link.user_id is not None and request.user.pk == link.user_id
    if request.method == "POST" and link.state is LinkState.OPEN:
        link = use_link(request, link, partial(email_change.confirm, change_id, code), is_mine=is_mine)
    response = page_of_link(request, "accounts/email_change_link.html", link, purpose="confirm", is_mine=is_mine)
    if link.state is LinkState.DONE:
        devices.remember(response, link.new_address)
    return response


@page_with_form
def stop_change(request: HttpRequest, change_id: UUID, code: str) -> HttpResponse:
    """GET shows a button. POST stops or undoes the change."""
    act = email_change.stop if request.method == "POST" else email_change.stop_link
    return page_of_link(request, "accounts/email_change_link.html", act(change_id, code), purpose="stop")


def _user(request: HttpRequest) -> User:
    return cast(User, request.user)
