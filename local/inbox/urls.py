"""The addresses of the inbox. An id is a slug, so no address can point to another file."""

from django.urls import path

from local.inbox import api, views

urlpatterns = [
    path("", views.message_list, name="list"),
    path("revision", views.revision, name="revision"),
    path("delete/", views.delete_all, name="delete-all"),
    path("messages/<slug:message_id>/", views.message, name="message"),
    path("messages/<slug:message_id>/html/", views.html_part, name="html"),
    path("messages/<slug:message_id>/source/", views.source, name="source"),
    path("messages/<slug:message_id>/parts/<int:number>/", views.part, name="part"),
    path("messages/<slug:message_id>/delete/", views.delete, name="delete"),
    path("api/messages", api.messages),
    path("api/messages/<slug:message_id>", api.message),
    path("healthz", views.healthz),
]

handler400 = "local.inbox.views.bad_request"
handler404 = "local.inbox.views.not_found"
