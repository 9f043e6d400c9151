from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0004_announcement'),
    ]

    operations = [
        migrations.DeleteModel(
            name='Announcement',
        ),
    ]
