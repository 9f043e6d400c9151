from django.urls import include, path

from config.urls import urlpatterns as ours

urlpatterns = [path("members/", include("allauth.urls")), *ours]
