"""What Celery runs for the accounts."""

from celery import shared_task

from accounts import deletion


@shared_task(name="accounts.tasks.purge", max_retries=0)
def purge() -> None:
    """Deletes what is over; beat calls it once an hour."""
    deletion.purge()
