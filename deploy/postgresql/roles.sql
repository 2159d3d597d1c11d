-- The roles of DuckMesh on a PostgreSQL of your own (docs/deployment.md). To be run in DuckMesh's database by a superuser,
-- or by a role that may create roles and owns the database and what is in it; as often as you like. Then give
-- duckmesh_owner and duckmesh_app a password each. What each may do with the tables, `manage.py migrate` grants.
--
--   duckmesh_owner  owns the database, migrates, backs up, restores and drills. Row-level security does not bind it.
--   duckmesh_app    what the programs connect as: bound by row-level security, and changes no table.
--   duckmesh_lake   may read which tables, snapshots and files there are: for other engines. Grant it to their roles.
SET lock_timeout = '4s';  -- beside programs that run: do it again if it was in their way

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['duckmesh_owner', 'duckmesh_app', 'duckmesh_lake'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN EXECUTE format('CREATE ROLE %I', name); END IF;
  END LOOP;
END $$;
ALTER ROLE duckmesh_owner LOGIN CREATEDB;
ALTER ROLE duckmesh_app LOGIN;
-- An adoption and a restore end the sessions of the programs.
GRANT duckmesh_app TO duckmesh_owner;
-- What the doctor looks at, and whether an old transaction is in the way.
GRANT pg_monitor TO duckmesh_owner, duckmesh_app;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

-- What an earlier version has made as another role becomes the owner's.
DO $$
DECLARE
  what text;
BEGIN
  EXECUTE format('ALTER DATABASE %I OWNER TO duckmesh_owner', current_database());
  FOR what IN
    SELECT format('ALTER %s %s OWNER TO duckmesh_owner',
                  CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, c.oid::regclass)
      FROM pg_class c
     WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
       AND c.relowner <> 'duckmesh_owner'::regrole
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                                                 AND d.deptype IN ('a', 'i', 'e'))
    UNION ALL
    SELECT format('ALTER ROUTINE %s OWNER TO duckmesh_owner', p.oid::regprocedure)
      FROM pg_proc p
     WHERE p.pronamespace = 'public'::regnamespace AND p.proowner <> 'duckmesh_owner'::regrole
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid
                                                 AND d.deptype = 'e')
  LOOP
    EXECUTE what;
  END LOOP;
END $$;
