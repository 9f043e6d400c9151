"""Providers as they call a webhook: their requests, signed as each of them signs, and what their events look like.

The shapes are those of the providers' documentation.
"""

import hashlib
import hmac
import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from django.http import HttpResponse
from django.test import Client

from mailer.models import Bounce, What
from mailer.transports import verp

LOGIN = "hooks:a-long-password"
KEY = "the-key-of-the-provider"
BASIC = {"Authorization": f"Basic {b64encode(LOGIN.encode()).decode()}"}
NUMBER = 7
"""The primary key of the message that all events are about."""
AT = 1_790_000_000
"""When all of it happened: 21 September 2026, 14:13:20 UTC."""
ISO = "2026-09-21T14:13:20Z"
ANN = "ann@example.com"
ID = "3f1c-provider-id"

HARD, SOFT, POLICY, NONE = Bounce.HARD, Bounce.SOFT, Bounce.POLICY, Bounce.NONE
Post = Callable[..., HttpResponse]


def metadata() -> dict[str, str]:
    """Return what a transport gave to the provider together with the mail."""
    return {"postcommit": verp.token(NUMBER)}


def as_json() -> str:
    return json.dumps(metadata())


@dataclass(frozen=True)
class Provider:
    """One provider: its name in Anymail, its backend, the setting that its requests are checked by, and how it calls."""

    name: str
    module: str
    post: Callable[["Provider", Client, Any, str], Any]
    secret: str = "WEBHOOK_SECRET"
    value: Callable[[], str] = field(default=lambda: LOGIN)
    path: str = ""

    @property
    def url(self) -> str:
        return self.path or f"/anymail/{self.module}/tracking/"

    @property
    def mailers(self) -> dict[str, Any]:
        return {"transport": {"BACKEND": f"anymail.backends.{self.module}.EmailBackend"}}

    @property
    def settings(self) -> dict[str, str]:
        return {self.secret: self.value()}

    def call(self, client: Client, body: Any, key: str = KEY) -> Any:
        """Post these events, signed with the key."""
        return self.post(self, client, body, key)


# --- How each of them calls --------------------------------------------------------------------------------------------


def post(client: Client, url: str, octets: bytes, **headers: str) -> Any:
    return client.post(
        url, octets, content_type="application/json", headers={n.replace("_", "-"): v for n, v in headers.items()}
    )


def octets(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def with_login(provider: Provider, client: Client, body: Any, key: str) -> Any:
    login = BASIC if key == KEY else {"Authorization": f"Basic {b64encode(key.encode()).decode()}"}
    return post(client, provider.url, octets(body), **login)


def amazon(provider: Provider, client: Client, body: Any, key: str) -> Any:
    message = {
        "Type": "Notification",
        "MessageId": "19ba9823-d7f2-53c1-860e-cb10e0d13dfc",
        "TopicArn": "arn:aws:sns:us-east-1:1234567890:SES_Events",
        "Message": body if isinstance(body, str) else octets(body).decode("latin-1"),
        "Timestamp": "2026-09-21T14:13:20.675Z",
    }
    login = BASIC if key == KEY else {"Authorization": f"Basic {b64encode(key.encode()).decode()}"}
    kind = {"x-amz-sns-message-type": "Notification", "x-amz-sns-message-id": message["MessageId"]}
    return client.post(provider.url, json.dumps(message), content_type="text/plain", headers=login | kind)


def sha256_of_body(header: str) -> Callable[[Provider, Client, Any, str], Any]:
    def call(provider: Provider, client: Client, body: Any, key: str) -> Any:
        signature = sign(octets(body), key)
        return post(client, provider.url, octets(body), **{header: signature})

    return call


def sign(signed: bytes, key: str = KEY) -> str:
    return hmac.new(key.encode(), signed, hashlib.sha256).hexdigest()


def mailgun(provider: Provider, client: Client, body: Any, key: str) -> Any:
    token, at = "651869375b9df3c98fc15c4889b102119add1235c38fc92824", str(AT)
    signature = sign(f"{at}{token}".encode(), key)
    signed = {"signature": {"token": token, "timestamp": at, "signature": signature}, "event-data": body}
    return post(client, provider.url, body if isinstance(body, bytes) else octets(signed))


def mandrill(provider: Provider, client: Client, body: Any, key: str) -> Any:
    sent = octets(body).decode("utf-8", "replace")
    signed = f"http://testserver{provider.url}mandrill_events{sent}"
    signature = b64encode(hmac.new(key.encode(), signed.encode(), hashlib.sha1).digest()).decode()
    return client.post(provider.url, {"mandrill_events": sent}, headers={"X-Mandrill-Signature": signature})


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def public(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return "".join(pem.decode().splitlines()[1:-1])


def postal(provider: Provider, client: Client, body: Any, key: str) -> Any:
    signature = rsa_key(key).sign(octets(body), padding.PKCS1v15(), hashes.SHA1())  # noqa: S303 - what Postal does
    return post(client, provider.url, octets(body), X_Postal_Signature=b64encode(signature).decode())


def sendgrid(provider: Provider, client: Client, body: Any, key: str) -> Any:
    signature = ec_key(key).sign(str(AT).encode() + octets(body), ec.ECDSA(hashes.SHA256()))
    name = "X-Twilio-Email-Event-Webhook-{}"
    headers = {name.format("Signature"): b64encode(signature).decode(), name.format("Timestamp"): str(AT)}
    return post(client, provider.url, octets(body), **headers)


def unisender(provider: Provider, client: Client, body: Any, key: str) -> Any:
    place = "__the place of the signature__"
    if not isinstance(body, dict):
        return post(client, provider.url, octets(body))
    unsigned = json.dumps({**body, "auth": place})
    signature = hashlib.md5(unsigned.replace(place, key).encode()).hexdigest()  # noqa: S324 - what it does
    return post(client, provider.url, unsigned.replace(place, signature).encode())


AMAZON = Provider("Amazon SES", "amazon_ses", amazon)
BREVO = Provider("Brevo", "brevo", with_login)
MAILERSEND = Provider("MailerSend", "mailersend", sha256_of_body("Signature"), "MAILERSEND_SIGNING_SECRET", lambda: KEY)
MAILGUN = Provider("Mailgun", "mailgun", mailgun, "MAILGUN_WEBHOOK_SIGNING_KEY", lambda: KEY)
MAILJET = Provider("Mailjet", "mailjet", with_login)
MAILTRAP = Provider(
    "Mailtrap", "mailtrap", sha256_of_body("Mailtrap-Signature"), "MAILTRAP_TRACKING_SECRET", lambda: KEY
)
MANDRILL = Provider("Mandrill", "mandrill", mandrill, "MANDRILL_WEBHOOK_KEY", lambda: KEY)
POSTAL = Provider("Postal", "postal", postal, "POSTAL_WEBHOOK_KEY", lambda: public(rsa_key(KEY)))
POSTMARK = Provider("Postmark", "postmark", with_login)
RESEND = Provider("Resend", "resend", with_login)
SENDGRID = Provider(
    "SendGrid", "sendgrid", sendgrid, "SENDGRID_TRACKING_WEBHOOK_VERIFICATION_KEY", lambda: public(ec_key(KEY))
)
SPARKPOST = Provider("SparkPost", "sparkpost", with_login)
UNISENDER = Provider("Unisender Go", "unisender_go", unisender, "UNISENDER_GO_API_KEY", lambda: KEY)

PROVIDERS = [
    *(AMAZON, BREVO, MAILERSEND, MAILGUN, MAILJET, MAILTRAP, MANDRILL, POSTAL, POSTMARK, RESEND, SENDGRID, SPARKPOST),
    UNISENDER,
]

# --- What their events look like ---------------------------------------------------------------------------------------


def ses(kind: str, name: str = "", **about: Any) -> dict[str, Any]:
    headers = [{"name": "Message-ID", "value": "<x@example.com>"}, {"name": "X-Metadata", "value": as_json()}]
    mail = {"messageId": ID, "destination": [ANN, "bob@example.com"], "headers": headers, "timestamp": ISO}
    return {"eventType": kind, "mail": mail, name or kind.lower(): about}


def ses_bounce(kind: str, detail: str, diagnostic: str | None = None) -> dict[str, Any]:
    recipient = {"emailAddress": ANN, "action": "failed"} | ({"diagnosticCode": diagnostic} if diagnostic else {})
    return ses("Bounce", bounceType=kind, bounceSubType=detail, bouncedRecipients=[recipient], timestamp=ISO)


def brevo(kind: str, **fields: Any) -> dict[str, Any]:
    about = {"message-id": ID, "email": ANN, "ts_epoch": AT * 1000, "date": "2026-09-21 16:13:20", "id": 1}
    return {"event": kind, "X-Mailin-custom": as_json(), **about, **fields}


def mailersend(kind: str, **morph: Any) -> dict[str, Any]:
    mail = {"object": "email", "message": {"id": ID}, "recipient": {"object": "recipient", "email": ANN}}
    data = {"object": "activity", "id": "63fd", "type": kind, "created_at": ISO, "email": mail, "morph": morph or None}
    return {"type": f"activity.{kind}", "created_at": ISO, "data": data}


def of_mailgun(kind: str, message: str = "", code: int = 250, **fields: Any) -> dict[str, Any]:
    status = {"code": code, "message": message, "description": "", "attempt-no": 1, **fields.pop("status", {})}
    headers = {"message-id": f"{ID}@example.com", "to": ANN}
    about = {"recipient": ANN, "message": {"headers": headers}, "user-variables": metadata(), "id": "hTWCTD81RtiDN"}
    return {"event": kind, "timestamp": AT + 0.153, "delivery-status": status, **about, **fields}


def mailjet(kind: str, **fields: Any) -> dict[str, Any]:
    about = {"MessageID": 12345678901234567, "email": ANN, "Payload": as_json(), "customcampaign": ""}
    return {"event": kind, "time": AT, **about, **fields}


def mailtrap(kind: str, **fields: Any) -> dict[str, Any]:
    about = {"message_id": ID, "email": ANN, "event_id": f"e-{kind}", "custom_variables": metadata()}
    return {"events": [{"event": kind, "timestamp": AT, "sending_stream": "transactional", **about, **fields}]}


def of_mandrill(kind: str, reject: dict[str, str] | None = None, **msg: Any) -> dict[str, Any]:
    mail = {"ts": AT - 9, "email": ANN, "sender": "shop@example.com", "metadata": metadata(), "_id": ID, **msg}
    return {"event": kind, "_id": ID, "ts": AT, "msg": mail, **({"reject": reject} if reject else {})}


def of_postal(status: str = "", details: str = "", output: str = "", **payload: Any) -> dict[str, Any]:
    mail = {"id": 1571, "direction": "outgoing", "message_id": "x@example.com", "to": ANN, "tag": None}
    about = {"message": mail, "status": status, "details": details, "output": output} if status else {}
    return {"event": "Message", "timestamp": AT + 0.5, "uuid": "5fec5077", "payload": {**about, **payload}}


def postmark(record: str, **fields: Any) -> dict[str, Any]:
    moment = {"Delivery": "DeliveredAt", "Bounce": "BouncedAt", "SpamComplaint": "BouncedAt"}.get(record, "ReceivedAt")
    who = "Email" if moment == "BouncedAt" else "Recipient"
    return {"RecordType": record, "MessageID": ID, who: ANN, moment: ISO, "Metadata": metadata(), **fields}


def postmark_bounce(kind: str, details: str = "") -> dict[str, Any]:
    said = "The server was unable to deliver your message (ex: unknown user, mailbox not found)."
    return postmark("Bounce", ID=901542550, Type=kind, Description=said, Details=details, Inactive=True)


def resend(kind: str, **data: Any) -> dict[str, Any]:
    headers = [{"name": "X-Metadata", "value": as_json()}]
    about = {"email_id": ID, "to": [ANN, "bob@example.com"], "from": "s@example.com", "headers": headers}
    return {"type": f"email.{kind}", "created_at": ISO, "data": {**about, **data}}


def resend_bounce(kind: str, detail: str) -> dict[str, Any]:
    said = "The recipient's provider sent a hard bounce. It may harm your reputation as a sender."
    return resend("bounced", bounce={"type": kind, "subType": detail, "message": said})


def of_sendgrid(kind: str, **fields: Any) -> dict[str, Any]:
    about = {"email": ANN, "timestamp": AT, "sg_event_id": f"e-{kind}", "anymail_id": ID, **metadata()}
    return {"event": kind, "smtp-id": "<x@ismtpd>", "sg_message_id": "wrf.filter", **about, **fields}


def sparkpost(kind: str, group: str = "message_event", **fields: Any) -> dict[str, Any]:
    about = {"event_id": f"8434{kind}", "transmission_id": ID, "raw_rcpt_to": ANN, "rcpt_meta": metadata()}
    return {"msys": {group: {"type": kind, "timestamp": str(AT), **about, **fields}}}


def unisender_go(status: str, delivery: str = "", answer: str = "") -> dict[str, Any]:
    info = {"delivery_info": {"delivery_status": delivery, "destination_response": answer}} if delivery else {}
    data = {"job_id": ID, "email": ANN, "status": status, "metadata": metadata(), "event_time": "2026-09-21 14:13:20"}
    event = {"event_name": "transactional_email_status", "event_data": {**data, **info}}
    return {"events_by_user": [{"user_id": 1, "events": [event]}]}


Expected = tuple[What, Bounce, str] | None
NO_USER = "550 5.1.1 The email account that you tried to reach does not exist"
IS_FULL = "552 5.2.2 mailbox full"
BLOCKED = "550 5.7.1 Our system has detected that this message is likely unsolicited mail"


def events() -> list[tuple[Provider, Any, Expected]]:
    """Return requests, and what each reports: what, what it says about the address, and the status."""
    delivered, delayed = (What.DELIVERED, NONE, ""), (What.DELAYED, NONE, "")
    complained, unsubscribed, opened = (
        (What.COMPLAINED, NONE, ""),
        (What.UNSUBSCRIBED, NONE, ""),
        (What.OPENED, NONE, ""),
    )
    dropped = (What.DROPPED, NONE, "")

    def bounced(bounce: Bounce, code: str = "") -> Expected:
        return What.BOUNCED, bounce, code

    return [
        (AMAZON, ses("Delivery", recipients=[ANN], smtpResponse="250 ok"), delivered),
        (AMAZON, ses_bounce("Permanent", "General", f"smtp; {NO_USER}"), bounced(HARD, "5.1.1")),
        (AMAZON, ses_bounce("Permanent", "General", f"smtp; {BLOCKED}"), bounced(POLICY, "5.7.1")),
        (AMAZON, ses_bounce("Permanent", "General"), bounced(HARD)),
        (AMAZON, ses_bounce("Permanent", "Suppressed"), bounced(HARD)),
        (AMAZON, ses_bounce("Transient", "General", "smtp; 550 4.4.7 expired"), bounced(SOFT, "4.4.7")),
        (AMAZON, ses_bounce("Transient", "MailboxFull"), bounced(SOFT)),
        (AMAZON, ses_bounce("Transient", "ContentRejected"), bounced(POLICY)),
        (AMAZON, ses_bounce("Undetermined", "Undetermined"), bounced(SOFT)),
        (AMAZON, ses_bounce("Undetermined", "Undetermined", f"smtp; {NO_USER}"), bounced(HARD, "5.1.1")),
        (
            AMAZON,
            ses("Complaint", complainedRecipients=[{"emailAddress": ANN}], complaintFeedbackType="abuse"),
            complained,
        ),
        (
            AMAZON,
            ses("Complaint", complainedRecipients=[{"emailAddress": ANN}], complaintFeedbackType="not-spam"),
            None,
        ),
        (AMAZON, ses("Send"), None),
        (AMAZON, ses("Click", link="https://example.com"), None),
        (AMAZON, "Successfully validated SNS topic for Amazon SES event publishing.", None),
        (BREVO, brevo("request"), None),
        (BREVO, brevo("delivered"), delivered),
        (BREVO, brevo("hard_bounce", reason=f"{NO_USER}"), bounced(HARD, "5.1.1")),
        (BREVO, brevo("hard_bounce", reason=BLOCKED), bounced(POLICY, "5.7.1")),
        (BREVO, brevo("soft_bounce", reason="452 4.2.2 over quota"), bounced(SOFT, "4.2.2")),
        (BREVO, brevo("soft_bounce"), bounced(SOFT)),
        (BREVO, brevo("invalid_email"), bounced(HARD)),
        (BREVO, brevo("blocked", reason="blocked : due to blacklist user"), dropped),
        (BREVO, brevo("error"), dropped),
        (BREVO, brevo("deferred", reason="450 try later"), delayed),
        (BREVO, brevo("spam"), complained),
        (BREVO, brevo("unique_opened"), opened),
        (BREVO, brevo("unsubscribe"), unsubscribed),
        (BREVO, brevo("list_addition"), None),
        (BREVO, brevo("of next year"), None),
        (MAILERSEND, mailersend("sent"), None),
        (MAILERSEND, mailersend("delivered"), delivered),
        (MAILERSEND, mailersend("hard_bounced", object="recipient_bounce", reason=NO_USER), bounced(HARD, "5.1.1")),
        (MAILERSEND, mailersend("hard_bounced", object="recipient_bounce", reason="Host not found"), bounced(HARD)),
        (MAILERSEND, mailersend("soft_bounced", object="recipient_bounce", reason="Unknown reason"), bounced(SOFT)),
        (MAILERSEND, mailersend("spam_complaint", object="spam_complaint", reason=None), complained),
        (MAILERSEND, mailersend("unsubscribed", object="recipient_unsubscribe", reason="option_3"), unsubscribed),
        (MAILERSEND, mailersend("opened", object="open"), opened),
        (MAILGUN, of_mailgun("delivered", "OK"), delivered),
        (
            MAILGUN,
            of_mailgun("failed", f"{NO_USER}\n5.1.1 try again", 550, severity="permanent", reason="bounce"),
            bounced(HARD, "5.1.1"),
        ),
        (
            MAILGUN,
            of_mailgun(
                "failed", "rejected", 550, severity="permanent", reason="generic", status={"enhanced-code": "5.1.1"}
            ),
            bounced(HARD, "5.1.1"),
        ),
        (MAILGUN, of_mailgun("failed", BLOCKED, 550, severity="permanent", reason="generic"), bounced(POLICY, "5.7.1")),
        (MAILGUN, of_mailgun("failed", "Too old", 602, severity="permanent", reason="old"), bounced(SOFT)),
        (
            MAILGUN,
            of_mailgun(
                "failed", "Not delivering to previously bounced", 605, severity="permanent", reason="suppress-bounce"
            ),
            (What.DROPPED, HARD, ""),
        ),
        (MAILGUN, of_mailgun("failed", "x", 607, severity="permanent", reason="suppress-complaint"), dropped),
        (MAILGUN, of_mailgun("failed", "4.2.2 busy", 452, severity="temporary", reason="generic"), delayed),
        (MAILGUN, of_mailgun("rejected", reject={"reason": "Sandbox subdomains are for test purposes only"}), dropped),
        (MAILGUN, of_mailgun("complained"), complained),
        (MAILGUN, of_mailgun("unsubscribed"), unsubscribed),
        (MAILGUN, of_mailgun("opened"), opened),
        (MAILGUN, of_mailgun("accepted"), None),
        (MAILJET, [mailjet("sent", smtp_reply="sent (250 2.0.0 OK)")], delivered),
        (MAILJET, mailjet("sent", smtp_reply="sent (250 2.0.0 OK)"), delivered),
        (MAILJET, [mailjet("bounce", hard_bounce=True, blocked=False, error="user unknown")], bounced(HARD)),
        (
            MAILJET,
            [mailjet("bounce", hard_bounce=True, error="mailbox inactive", smtp_reply=NO_USER)],
            bounced(HARD, "5.1.1"),
        ),
        (MAILJET, [mailjet("bounce", hard_bounce=False, error="quota exceeded")], bounced(SOFT)),
        (MAILJET, [mailjet("bounce", hard_bounce=True, error="policy issue")], bounced(POLICY)),
        (MAILJET, [mailjet("bounce", hard_bounce=False, error="greylisted")], delayed),
        (MAILJET, [mailjet("blocked", error="preblocked", error_related_to="mailjet")], dropped),
        (MAILJET, [mailjet("blocked", error="user unknown")], (What.DROPPED, HARD, "")),
        (MAILJET, [mailjet("blocked", error="quota exceeded")], dropped),
        (MAILJET, [mailjet("spam", source="JMRPP")], complained),
        (MAILJET, [mailjet("unsub")], unsubscribed),
        (MAILJET, [mailjet("open")], opened),
        (MAILTRAP, mailtrap("delivery"), delivered),
        (MAILTRAP, mailtrap("bounce", response=f"bounced ({NO_USER})", bounce_category="hard"), bounced(HARD, "5.1.1")),
        (MAILTRAP, mailtrap("bounce", response=f"bounced ({IS_FULL})", bounce_category="full"), bounced(SOFT, "5.2.2")),
        (MAILTRAP, mailtrap("bounce", bounce_category="spam"), bounced(POLICY)),
        (MAILTRAP, mailtrap("soft bounce", response="soft bounce (450 4.2.0 later)"), delayed),
        (MAILTRAP, mailtrap("suspension", reason="other"), delayed),
        (MAILTRAP, mailtrap("reject", reason="Recipient in suppression list"), dropped),
        (MAILTRAP, mailtrap("spam"), complained),
        (MAILTRAP, mailtrap("unsubscribe"), unsubscribed),
        (MAILTRAP, mailtrap("open"), opened),
        (MANDRILL, [of_mandrill("send")], None),
        (MANDRILL, [of_mandrill("deferral", diag="450 later")], delayed),
        (MANDRILL, [of_mandrill("delivered")], None),
        (
            MANDRILL,
            [of_mandrill("hard_bounce", diag=f"smtp;{NO_USER}", bounce_description="bad_mailbox")],
            bounced(HARD, "5.1.1"),
        ),
        (MANDRILL, [of_mandrill("soft_bounce", diag=f"smtp;{IS_FULL}")], bounced(SOFT, "5.2.2")),
        (MANDRILL, [of_mandrill("reject", {"reason": "hard-bounce", "detail": "x"})], (What.DROPPED, HARD, "")),
        (MANDRILL, [of_mandrill("reject", {"reason": "unsub"})], dropped),
        (MANDRILL, [of_mandrill("spam")], complained),
        (MANDRILL, [of_mandrill("unsub")], unsubscribed),
        (MANDRILL, [of_mandrill("open")], opened),
        (MANDRILL, [{"type": "blacklist", "action": "add", "reject": {"email": ANN, "reason": "manual edit"}}], None),
        (POSTAL, of_postal("Sent", "Message sent by SMTP", "250 2.0.0 OK"), delivered),
        (POSTAL, of_postal("SoftFail", "Try later", "450"), delayed),
        (POSTAL, of_postal("HardFail", "Permanent SMTP delivery error", NO_USER), bounced(HARD, "5.1.1")),
        (POSTAL, of_postal("HardFail", "Permanent SMTP delivery error", BLOCKED), bounced(POLICY, "5.7.1")),
        (POSTAL, of_postal("Held", "Recipient is on the suppression list"), None),
        (
            POSTAL,
            of_postal(
                original_message={"id": 1571, "direction": "outgoing", "message_id": "x@example.com", "to": ANN},
                bounce={"id": 233864, "direction": "incoming", "to": "psrp@postal.example.com"},
            ),
            bounced(SOFT),
        ),
        (POSTMARK, postmark("Delivery", Details="250 ok"), delivered),
        (POSTMARK, postmark_bounce("HardBounce", f"smtp;{NO_USER}"), bounced(HARD, "5.1.1")),
        (POSTMARK, postmark_bounce("HardBounce"), bounced(HARD)),
        (POSTMARK, postmark_bounce("HardBounce", f"smtp;{BLOCKED}"), bounced(POLICY, "5.7.1")),
        (POSTMARK, postmark_bounce("SoftBounce", f"smtp;{IS_FULL}"), bounced(SOFT, "5.2.2")),
        (POSTMARK, postmark_bounce("SoftBounce"), bounced(SOFT)),
        (POSTMARK, postmark_bounce("SpamNotification"), bounced(POLICY)),
        (POSTMARK, postmark_bounce("VirusNotification"), bounced(POLICY)),
        (POSTMARK, postmark_bounce("Transient", "smtp;450 later"), delayed),
        (POSTMARK, postmark_bounce("DnsError"), delayed),
        (POSTMARK, postmark_bounce("BadEmailAddress"), (What.DROPPED, HARD, "")),
        (POSTMARK, postmark_bounce("ManuallyDeactivated"), dropped),
        (POSTMARK, postmark_bounce("AutoResponder"), None),
        (POSTMARK, postmark("SpamComplaint", ID=1, Type="SpamComplaint"), complained),
        (
            POSTMARK,
            postmark("SubscriptionChange", SuppressSending=True, SuppressionReason="ManualSuppression"),
            unsubscribed,
        ),
        (POSTMARK, postmark("SubscriptionChange", SuppressSending=True, SuppressionReason="HardBounce"), bounced(HARD)),
        (POSTMARK, postmark("SubscriptionChange", SuppressSending=False, SuppressionReason=None), None),
        (POSTMARK, postmark("Open"), opened),
        (POSTMARK, postmark("Click", OriginalLink="https://example.com"), None),
        (RESEND, resend("sent"), None),
        (RESEND, resend("delivered"), delivered),
        (RESEND, resend("delivery_delayed"), delayed),
        (RESEND, resend_bounce("Permanent", "General"), bounced(HARD)),
        (RESEND, resend_bounce("Permanent", "Suppressed"), bounced(HARD)),
        (RESEND, resend_bounce("Transient", "MailboxFull"), bounced(SOFT)),
        (RESEND, resend_bounce("Transient", "ContentRejected"), bounced(POLICY)),
        (RESEND, resend("complained"), complained),
        (RESEND, resend("opened"), opened),
        (RESEND, resend("clicked", click={"link": "https://example.com"}), None),
        (SENDGRID, [of_sendgrid("processed")], None),
        (SENDGRID, [of_sendgrid("delivered", response="250 OK")], delivered),
        (
            SENDGRID,
            [of_sendgrid("bounce", type="bounce", status="5.1.1", reason="550 no mailbox")],
            bounced(HARD, "5.1.1"),
        ),
        (
            SENDGRID,
            [of_sendgrid("bounce", type="bounce", status="5.0.0", reason="500 unknown recipient")],
            bounced(HARD, "500"),
        ),
        (SENDGRID, [of_sendgrid("bounce", type="blocked", status="5.7.1", reason=BLOCKED)], bounced(POLICY, "5.7.1")),
        (SENDGRID, [of_sendgrid("bounce", type="expired", reason="unable to get mx info")], bounced(SOFT)),
        (SENDGRID, [of_sendgrid("dropped", reason="Bounced Address", status="5.0.0")], (What.DROPPED, HARD, "")),
        (SENDGRID, [of_sendgrid("dropped", reason="Invalid")], (What.DROPPED, HARD, "")),
        (SENDGRID, [of_sendgrid("dropped", reason="Unsubscribed Address")], dropped),
        (SENDGRID, [of_sendgrid("dropped", reason="Spam Reporting Address")], dropped),
        (SENDGRID, [of_sendgrid("deferred", response="450 later", attempt="2")], delayed),
        (SENDGRID, [of_sendgrid("spamreport")], complained),
        (SENDGRID, [of_sendgrid("unsubscribe")], unsubscribed),
        (SENDGRID, [of_sendgrid("group_resubscribe", asm_group_id=1)], None),
        (SENDGRID, [of_sendgrid("open")], opened),
        (SPARKPOST, [sparkpost("delivery")], delivered),
        (SPARKPOST, [{"msys": {}}], None),
        (
            SPARKPOST,
            [sparkpost("bounce", bounce_class="10", error_code="550", raw_reason=NO_USER)],
            bounced(HARD, "5.1.1"),
        ),
        (
            SPARKPOST,
            [sparkpost("bounce", bounce_class="30", raw_reason="550 [internal] no RCPT")],
            bounced(HARD, "550"),
        ),
        (SPARKPOST, [sparkpost("bounce", bounce_class="22", raw_reason=IS_FULL)], bounced(SOFT, "5.2.2")),
        (SPARKPOST, [sparkpost("bounce", bounce_class="51", raw_reason="554 listed")], bounced(POLICY, "554")),
        (SPARKPOST, [sparkpost("bounce", bounce_class="1", raw_reason=NO_USER)], bounced(HARD, "5.1.1")),
        (SPARKPOST, [sparkpost("out_of_band", bounce_class="10", raw_reason=NO_USER)], bounced(HARD, "5.1.1")),
        (SPARKPOST, [sparkpost("out_of_band", bounce_class="60", raw_reason="I am away")], None),
        (SPARKPOST, [sparkpost("policy_rejection", bounce_class="25", raw_reason="550 suppressed")], dropped),
        (SPARKPOST, [sparkpost("generation_failure", "gen_event")], dropped),
        (SPARKPOST, [sparkpost("delay", bounce_class="21", raw_reason="454 4.4.4 no MX")], delayed),
        (SPARKPOST, [sparkpost("spam_complaint")], complained),
        (SPARKPOST, [sparkpost("list_unsubscribe", "unsubscribe_event")], unsubscribed),
        (SPARKPOST, [sparkpost("open", "track_event")], opened),
        (UNISENDER, unisender_go("sent"), None),
        (UNISENDER, unisender_go("delivered"), delivered),
        (UNISENDER, unisender_go("soft_bounced", "err_will_retry", "450 later"), delayed),
        (UNISENDER, unisender_go("hard_bounced", "err_user_unknown", NO_USER), bounced(HARD, "5.1.1")),
        (UNISENDER, unisender_go("hard_bounced", "err_mailbox_full", IS_FULL), bounced(SOFT, "5.2.2")),
        (UNISENDER, unisender_go("hard_bounced", "err_spam_rejected"), bounced(POLICY)),
        (UNISENDER, unisender_go("spam"), complained),
        (UNISENDER, unisender_go("unsubscribed"), unsubscribed),
        (UNISENDER, unisender_go("opened"), opened),
    ]
