"""What happens by itself unless an operator says otherwise. Rows that were changed or deleted are not made anew."""

from django.db import migrations

DEFAULTS = """
INSERT INTO maintenance_policy (kind, name, enabled, interval, window_start, window_end, options) VALUES
    ('compaction', 'default', true, '1 minute', NULL, NULL, '{}'),
    ('retention', 'default', true, '1 minute', NULL, NULL, '{}'),
    ('integrity', 'quick', true, '1 hour', NULL, NULL, '{"mode": "quick"}'),
    ('integrity', 'deep', true, '7 days', NULL, NULL, '{"mode": "deep"}'),
    ('restore_drill', 'default', true, '1 day', '02:00', '05:00', '{}')
"""


class Migration(migrations.Migration):
    dependencies = [("maintenance", "0005_policies")]

    operations = [migrations.RunSQL(DEFAULTS, migrations.RunSQL.noop)]
