from importlib.util import find_spec

from django.urls import path

from mailer.views import health
from mailer.views.unsubscribe import unsubscribe

urlpatterns = [
    path("healthz", health.alive, name="healthz"),
    path("readyz", health.ready, name="readyz"),
    path("unsubscribe/<str:token>/", unsubscribe, name="unsubscribe"),
    path("unsubscribe/<path:token>", unsubscribe),  # a mail client's POST must not be redirected for a lost slash
]

if find_spec("prometheus_client"):
    from mailer.views.metrics import metrics

    urlpatterns.append(path("metrics", metrics, name="metrics"))

if find_spec("anymail"):
    from mailer.views.webhooks import webhook

    urlpatterns.append(path("anymail/<slug:provider>/<slug:kind>/", webhook, name="webhook"))
