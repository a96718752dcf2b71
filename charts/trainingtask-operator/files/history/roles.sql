-- Runs at each start, so that a volume of an earlier release gets what is new. The operator makes the tables and the
-- namespaces' roles, and grants them what they need.
\getenv owner_password OWNER_PASSWORD
\getenv reader_password READER_PASSWORD
SELECT format('CREATE ROLE %I', name) FROM unnest('{trainingtask,trainingtask_trainer,trainingtask_reader}'::text[]) name
  WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
ALTER ROLE trainingtask LOGIN CREATEROLE PASSWORD :'owner_password';
ALTER ROLE trainingtask_reader LOGIN PASSWORD :'reader_password';
ALTER ROLE trainingtask_trainer NOLOGIN PASSWORD NULL;
GRANT trainingtask_trainer, trainingtask_reader TO trainingtask WITH ADMIN OPTION;
ALTER DATABASE trainingtask OWNER TO trainingtask;
REVOKE ALL ON DATABASE trainingtask, postgres, template1 FROM PUBLIC;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT CONNECT ON DATABASE trainingtask TO trainingtask_reader;
-- Large objects belong to no row, and advisory locks to no table: no policy confines them.
SELECT format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', oid::regprocedure) FROM pg_proc
  WHERE pronamespace = 'pg_catalog'::regnamespace
  AND (proname LIKE 'lo\_%' OR proname IN ('loread', 'lowrite') OR proname LIKE 'pg\_%advisory%') \gexec
-- An operator of the release before, after a rollback, migrates under this lock.
GRANT EXECUTE ON FUNCTION pg_advisory_xact_lock(bigint) TO trainingtask;
