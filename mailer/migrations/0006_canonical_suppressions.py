"""Rewrite suppressed addresses to their canonical form. Of rows that become equal, one stays."""

from django.db import migrations

import mailer.models
from mailer.addresses import canonical

IS_CANONICAL = r"^[a-z0-9!#$%&'*+/=?^_`{|}~.-]+@[a-z0-9._-]*[a-z0-9_-]$"
"""Nearly all rows. They need not be read."""


def rewrite(apps, schema_editor):
    rows = apps.get_model("mailer", "Suppression").objects.using(schema_editor.connection.alias)
    unusual = rows.exclude(address__regex=IS_CANONICAL).order_by("created_at", "pk")
    for pk, address, stream in list(unusual.values_list("pk", "address", "stream")):
        form = canonical(address)
        if rows.filter(address=form, stream=stream).exclude(pk=pk).exists():
            rows.filter(pk=pk).delete()
        else:
            rows.filter(pk=pk).update(address=form)


class Migration(migrations.Migration):

    dependencies = [
        ('mailer', '0005_workers_and_circuits'),
    ]

    operations = [
        migrations.AlterField(
            model_name='suppression',
            name='address',
            field=mailer.models.CanonicalAddressField(max_length=254),
        ),
        migrations.RunPython(rewrite, migrations.RunPython.noop),
    ]
