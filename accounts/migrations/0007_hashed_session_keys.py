from django.db import migrations


class Migration(migrations.Migration):
    """Replace the key of each session by its hash, as accounts.sessions.hash_key() makes it. Nobody is logged out."""

    dependencies = [("accounts", "0006_plain_words")]
    operations = [
        migrations.RunSQL(
            "UPDATE accounts_session"
            " SET session_key = left(encode(sha256(convert_to(session_key, 'UTF8')), 'hex'), 40)",
            "DELETE FROM accounts_session",
        ),
    ]
