"""Nothing is issued on another PostgreSQL than the one that the catalog was last known to live on."""

import django.db.models.functions.datetime
from django.db import migrations, models

SERVER = """
CREATE FUNCTION duckmesh_server(OUT system_identifier bigint, OUT timeline bigint) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  known text := current_setting('duckmesh.system_identifier', true);
BEGIN
  -- The file that holds it is read once a session; a session never changes its server.
  IF coalesce(known, '') = '' THEN
    SELECT s.system_identifier INTO system_identifier FROM pg_control_system() s;
    PERFORM set_config('duckmesh.system_identifier', system_identifier::text, false);
  ELSE
    system_identifier := known::bigint;
  END IF;
  -- The control file learns of a promotion at the next checkpoint only; the name of the segment that is written now, at once.
  IF NOT pg_is_in_recovery() THEN
    timeline := ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint;
  END IF;
END $$;
COMMENT ON FUNCTION duckmesh_server IS 'The PostgreSQL that answers: its cluster, and its history; null of a standby.';
"""

REQUIRE = """
CREATE FUNCTION duckmesh_require_server() RETURNS trigger LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  here record;
  home record;
BEGIN
  SELECT * INTO here FROM duckmesh_server();
  SELECT c.system_identifier, c.timeline INTO home FROM catalog_server c;
  IF NOT FOUND THEN
    INSERT INTO catalog_server (one, system_identifier, timeline) VALUES (true, here.system_identifier, here.timeline)
      ON CONFLICT DO NOTHING;
  ELSIF (here.system_identifier, here.timeline) IS DISTINCT FROM (home.system_identifier, home.timeline) THEN
    RAISE EXCEPTION 'the catalog is not known to live on this server' USING ERRCODE = 'DM002';
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION duckmesh_require_server IS
  'Refuses, as DM002, whatever would issue a token, a snapshot or a claim on another PostgreSQL than the catalog''s own.';
CREATE TRIGGER snapshot_server BEFORE INSERT ON snapshot FOR EACH STATEMENT EXECUTE FUNCTION duckmesh_require_server();
"""
NO_REQUIRE = "DROP TRIGGER snapshot_server ON snapshot; DROP FUNCTION duckmesh_require_server()"


class Migration(migrations.Migration):

    dependencies = [
        ('catalog', '0010_service_mode'),
    ]

    operations = [
        migrations.CreateModel(
            name='CatalogServer',
            fields=[
                ('one', models.BooleanField(default=True, primary_key=True, serialize=False)),
                ('system_identifier', models.BigIntegerField()),
                ('timeline', models.BigIntegerField()),
                ('recorded_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'db_table': 'catalog_server',
                'constraints': [models.CheckConstraint(condition=models.Q(('one', True)), name='catalog_server_one_row')],
            },
        ),
        migrations.RunSQL(SERVER, "DROP FUNCTION duckmesh_server()"),
        migrations.RunSQL(REQUIRE, NO_REQUIRE),
    ]
