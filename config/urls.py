from django.contrib import admin
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from django.views.generic import RedirectView, TemplateView
from django.views.i18n import set_language

urlpatterns = [
    path("", TemplateView.as_view(template_name="home.html"), name="home"),
    path("language/", csrf_exempt(require_POST(set_language)), name="set_language"),
    path("accounts/", include("accounts.urls")),
    # Django's own page has no rate limit and sends no notice of the change.
    path("admin/password_change/", RedirectView.as_view(pattern_name="password_change")),
    path("admin/", admin.site.urls),
    path("", include("mailer.urls")),
]
