from django.db import migrations, models

from accounts.models import TimesField


class Migration(migrations.Migration):
    dependencies = [("accounts", "0008_emailverification_begun_by")]
    operations = [
        migrations.CreateModel(
            name="MovingWindow",
            fields=[
                (
                    "key",
                    models.UUIDField(
                        primary_key=True, serialize=False, help_text="A hash of the limit and the identity."
                    ),
                ),
                ("amount", models.IntegerField(help_text="The limit: so many events.")),
                ("seconds", models.IntegerField(help_text="The limit: in so many seconds.")),
                ("hits", TimesField(help_text="The last of them, at most `amount`.")),
            ],
        ),
        # Processes of the release before still count in its table, which a later migration will drop.
        migrations.SeparateDatabaseAndState(state_operations=[migrations.DeleteModel("Hit")]),
    ]
