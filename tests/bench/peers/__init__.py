"""What people use today: a Celery task a mail, and django-post-office. They have an environment of their own."""
