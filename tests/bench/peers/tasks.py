"""The naive way: a task a mail, which renders, inlines and sends."""

import uuid
from typing import Any

from celery import shared_task
from django.conf import settings
from django.contrib.auth.models import User
from django.core.mail import EmailMultiAlternatives
from django.template.loader import render_to_string
from django.utils.crypto import salted_hmac
from premailer import transform


def context_for(user: User) -> dict[str, Any]:
    """Return what the templates show, as long as ours. post_office stores it as JSON."""
    link = uuid.uuid4()
    code = salted_hmac("verify", str(link)).hexdigest()
    return {
        "recipient": {"name": user.first_name, "address": user.email},
        "link": f"{settings.SITE_URL}/accounts/verify/{link}/{code}/",
        "digits": "123456",
        "hours": 24,
        "language": "en",
        "subject": "Verify your e-mail address for Postcommit",
        "site_name": "Postcommit",
        "site_url": settings.SITE_URL,
    }


@shared_task
def send_verification(user_id: int) -> None:
    user = User.objects.get(pk=user_id)
    context = context_for(user)
    subject = render_to_string("email/verify_address/subject.txt", context).strip()
    text = render_to_string("email/verify_address/body.txt", context)
    html = transform(render_to_string("email/verify_address/body.html", context))
    mail = EmailMultiAlternatives(subject, text, None, [user.email])
    mail.attach_alternative(html, "text/html")
    mail.send()
