"""The admin's lists accept only the filters that they show."""

from collections.abc import Iterator
from typing import Any

import pytest
from bs4 import BeautifulSoup
from django.contrib import admin
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from accounts.models import User

DEPTH = 3
"""Relations that the walk follows."""
ENDINGS = ("", "__startswith", "__contains", "__regex", "__gte", "__exact", "__in", "__isnull")


@pytest.fixture
def superuser(client: Client, db: None) -> Client:
    client.force_login(User.objects.create_superuser("root@example.com", "a long password"))
    return client


def lookups(model: type[Model], prefix: str = "", depth: int = DEPTH) -> Iterator[str]:
    """Return every column of a model, and of the models that relations lead to, as lookups name them."""
    for field in model._meta.get_fields():
        path = f"{prefix}{field.name}"
        yield path
        if field.is_relation and isinstance(field.related_model, type):
            yield f"{path}__pk"
            if depth:
                yield from lookups(field.related_model, f"{path}__", depth - 1)


def filters_of(page: Any) -> set[str]:
    names = (
        entry[0] if isinstance(entry, list | tuple) else getattr(entry, "parameter_name", entry)
        for entry in page.list_filter
    )
    return {*names, page.date_hierarchy} - {None}


@pytest.mark.parametrize("model", admin.site._registry, ids=lambda model: model._meta.label)
def test_only_lookups_of_the_shown_filters_are_allowed(model: type[Model], rf: Any) -> None:
    page = admin.site._registry[model]
    request = rf.get("/")

    passing = {
        path for path in set(lookups(model)) for ending in ENDINGS if page.lookup_allowed(path + ending, "a", request)
    }

    assert passing <= filters_of(page)


@pytest.mark.parametrize("ending", ["__startswith", "__contains", "__regex", "__iexact", "__range"])
@pytest.mark.parametrize("model", admin.site._registry, ids=lambda model: model._meta.label)
def test_a_filter_does_not_find_a_value_by_a_part_of_it(model: type[Model], ending: str, rf: Any) -> None:
    page = admin.site._registry[model]

    assert not any(page.lookup_allowed(f"{name}{ending}", "a", rf.get("/")) for name in filters_of(page))


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("accounts_user", "sessions__session_key__startswith=a"),
        ("accounts_user", "sessions__pk__startswith=a"),
        ("accounts_user", "password__startswith=a"),
        ("accounts_emailverification", "secret__startswith=a"),
        ("accounts_emailchange", "secret__startswith=a"),
        ("mailer_message", "payload__id__startswith=a"),
        ("mailer_message", "arguments__contains=a"),
        ("auth_group", "permissions__user__sessions__session_key__startswith=a"),
    ],
)
def test_a_list_cannot_be_filtered_by_a_secret(superuser: Client, name: str, query: str) -> None:
    assert superuser.get(f"{reverse(f'admin:{name}_changelist')}?{query}").status_code == 400


@pytest.mark.parametrize("model", admin.site._registry, ids=lambda model: model._meta.label)
def test_every_filter_that_a_list_shows_works(superuser: Client, model: type[Model]) -> None:
    address = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    page = BeautifulSoup(superuser.get(address).content, "lxml")

    for link in page.select("#changelist-filter a, .toplinks a"):
        assert superuser.get(address + str(link["href"])).status_code == 200, link["href"]


def test_the_links_of_the_front_page_work(superuser: Client) -> None:
    page = BeautifulSoup(superuser.get(reverse("admin:index")).content, "lxml")

    for link in page.select("ul.object-tools a[href^='/']"):
        assert superuser.get(str(link["href"])).status_code == 200, link["href"]
