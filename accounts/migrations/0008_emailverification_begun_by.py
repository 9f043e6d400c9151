from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("accounts", "0007_hashed_session_keys")]
    operations = [
        migrations.AddField(
            "emailverification",
            "begun_by",
            models.UUIDField(
                null=True,
                blank=True,
                editable=False,
                help_text="The only sign-up behind it; empty after a second one.",
            ),
        ),
    ]
