"""Celery tasks of this app."""

from celery import shared_task

from accounts import deletion


@shared_task(name="accounts.tasks.purge", max_retries=0)
def purge() -> str:
    """Delete expired rows. Celery beat calls it once an hour."""
    return f"{deletion.purge()} rows deleted"
