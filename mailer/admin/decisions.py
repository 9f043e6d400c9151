"""What operators decide about messages: the actions of the list, and the buttons of one message."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import batched

from django.contrib import admin, messages
from django.contrib.admin import ActionLocation
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.defaultfilters import pluralize
from django.urls import reverse

from mailer import database, outbox
from mailer.admin.button import Button, button_of
from mailer.admin.history import record
from mailer.admin.read_only import ReadOnly
from mailer.delivery.explain import Explanation
from mailer.delivery.pulse import Action
from mailer.email import ReferenceGone, UnknownKind
from mailer.models import SETTLED, SOURCES, Message, MessageQuerySet, State
from mailer.recipients.suppression import reason_for, suppressed

EVERYWHERE = [ActionLocation.CHANGE_LIST, ActionLocation.CHANGE_FORM]
MOST = 100_000
"""The largest number of messages that a list counts, and that one action is about."""
MOST_RESENT = 1_000
"""The same for new copies of messages, each of which is loaded and enqueued by itself."""
TOGETHER = 5_000
"""Messages that are decided about at once."""
NAMED = 10
"""Messages and addresses that a page names one by one; of the others it tells the number."""

ALLOWED: Mapping[str, Sequence[State]] = {
    "retry": SOURCES[State.QUEUED],
    "cancel": SOURCES[State.CANCELLED],
    "mark_as_delivered": (State.HELD,),
    "resend": SETTLED,
}
"""In which states each action does something."""
BUTTONS: Mapping[str, str] = {
    "retry": Action.RETRY,
    "cancel": Action.CANCEL,
    "mark_as_delivered": "Mark as delivered",
    "resend": Action.RESEND,
}


def offered(message: Message, explanation: Explanation) -> list[Button]:
    """Return the buttons that make sense for a message now, the most useful one first."""
    buttons = [
        Button(
            label,
            reverse("admin:mailer_message_change", args=[message.pk]),
            {f"{ActionLocation.CHANGE_FORM.value}-action": name, ACTION_CHECKBOX_NAME: message.pk},
            is_main=label == explanation.action,
        )
        for name, label in BUTTONS.items()
        if message.state in ALLOWED[name]
    ]
    if first := button_of(explanation.action, explanation.target, message=message.pk):
        buttons.append(first)
    return sorted(buttons, key=lambda button: not button.is_main)


class Decisions(ReadOnly, admin.ModelAdmin):
    """The actions of the ModelAdmin of messages, and the page that asks first if they would be in vain."""

    actions = list(ALLOWED)

    @admin.action(
        description=BUTTONS["retry"],
        description_plural="Retry held or failed messages",
        permissions=["decide"],
        location=EVERYWHERE,
    )
    def retry(self, request: HttpRequest, queryset: MessageQuerySet) -> HttpResponse | None:
        chosen = self._choose(request, queryset)
        if question := self._ask_first(request, chosen, "retry"):
            return question

        def retry(batch: MessageQuerySet, reason: str) -> int:
            began, done = database.now(), outbox.retry(batch, reason=reason)
            record(request, batch.filter(first_due_at__gte=began).only("kind"), BUTTONS["retry"])
            return done

        self._decide(request, chosen, retry, "retried", "queued again", because="state or key")
        return None

    @admin.action(
        description=BUTTONS["cancel"],
        description_plural="Cancel waiting or held messages",
        permissions=["decide"],
        location=EVERYWHERE,
    )
    def cancel(self, request: HttpRequest, queryset: MessageQuerySet) -> None:
        def cancel(batch: MessageQuerySet, reason: str) -> int:
            began, done = database.now(), outbox.cancel_all(batch, reason=reason)
            settled = batch.filter(state=State.CANCELLED, settled_at__gte=began)
            record(request, settled.only("kind"), BUTTONS["cancel"])
            return done

        self._decide(request, self._choose(request, queryset), cancel, "cancelled", "cancelled")

    @admin.action(
        description=BUTTONS["mark_as_delivered"],
        description_plural="Mark held messages as delivered",
        permissions=["decide"],
        location=EVERYWHERE,
    )
    def mark_as_delivered(self, request: HttpRequest, queryset: MessageQuerySet) -> None:
        def mark(batch: MessageQuerySet, reason: str) -> int:
            began, done = database.now(), outbox.mark_as_delivered(batch, reason=reason)
            settled = batch.filter(state=State.SENT, settled_at__gte=began)
            record(request, settled.only("kind"), BUTTONS["mark_as_delivered"])
            return done

        self._decide(request, self._choose(request, queryset), mark, "marked as delivered", "marked as delivered")

    @admin.action(
        description=BUTTONS["resend"],
        description_plural="Send settled messages again, as new messages",
        permissions=["decide"],
        location=EVERYWHERE,
    )
    def resend(self, request: HttpRequest, queryset: MessageQuerySet) -> HttpResponse | None:
        """Enqueue a copy of each settled message, for example for a customer who deleted their receipt."""
        chosen = self._choose(request, queryset)
        if len(chosen) > MOST_RESENT:
            limit = f"At most {MOST_RESENT} messages are sent again at once; you chose {len(chosen)}. None was."
            messages.error(request, limit)
            return None
        if question := self._ask_first(request, chosen, "resend"):
            return question
        resent, failed = [], []
        for message in Message.objects.filter(pk__in=chosen, state__in=SETTLED):
            try:
                outbox.resend(message)
            except (ReferenceGone, UnknownKind, ValueError) as error:
                failed.append(f"Message {message.pk} cannot be resent: {error}.")
            else:
                resent.append(message)
        record(request, resent, BUTTONS["resend"])
        _complain(request, failed)
        _report(request, len(resent), len(chosen) - len(resent) - len(failed), "resent", because="state")
        return None

    def limit(self, request: HttpRequest) -> int:
        """Return the largest number of messages that one action is about."""
        return MOST

    def _choose(self, request: HttpRequest, queryset: MessageQuerySet) -> Sequence[int]:
        return list(queryset.values_list("pk", flat=True)[: self.limit(request)])

    def _decide(
        self,
        request: HttpRequest,
        chosen: Sequence[int],
        act: Callable[[MessageQuerySet, str], int],
        verb: str,
        done: str,
        *,
        because: str = "state",
    ) -> None:
        """Act on the messages, and say how many changed. They were counted before: afterwards no filter finds them."""
        reason = f"{verb} by {request.user.get_username()}"
        number = sum(act(Message.objects.filter(pk__in=batch), reason) for batch in batched(chosen, TOGETHER))
        _report(request, number, len(chosen) - number, done, because=because)

    def _ask_first(self, request: HttpRequest, chosen: Sequence[int], action: str) -> HttpResponse | None:
        """Return a page that says which of the addresses are suppressed, unless it was answered already."""
        if "anyway" in request.POST:
            return None
        possible = Message.objects.filter(pk__in=chosen, state__in=ALLOWED[action])
        recipients = Counter(possible.order_by().values_list("recipient", flat=True))
        if not (in_vain := suppressed(recipients.keys())):
            return None
        context = self.admin_site.each_context(request) | {
            "title": "The address gets no mail",
            "opts": Message._meta,
            "label": BUTTONS[action],
            "total": len(chosen),
            "number": sum(recipients[address] for address in in_vain),
            "reasons": [(address, reason_for(address)) for address in sorted(in_vain)[:NAMED]],
            "fields": [(k, v) for k, values in request.POST.lists() if k != "csrfmiddlewaretoken" for v in values],
        }
        return render(request, "admin/mailer/message/in_vain.html", context)


def _complain(request: HttpRequest, failed: Sequence[str]) -> None:
    for sentence in failed[:NAMED]:
        messages.error(request, sentence)
    if len(failed) > NAMED:
        messages.error(request, f"{len(failed) - NAMED} more cannot be resent.")


def _report(request: HttpRequest, done: int, skipped: int, verb: str, *, because: str) -> None:
    level = messages.SUCCESS if done else messages.WARNING
    rest = f"; {skipped} skipped because of their {because}" if skipped > 0 else ""
    messages.add_message(request, level, f"{done} message{pluralize(done)} {verb}{rest}.")
