-- A trigger of TRUNCATE that writes other values on each node: TRUNCATE went as it is.
--- world native_replication images = true
--- setup
CREATE TABLE audit (id serial PRIMARY KEY, at timestamptz DEFAULT now(), what text, r float8 DEFAULT random());
CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit (what) VALUES (tg_op); RETURN NULL; END $$;
CREATE TABLE t0 (k int PRIMARY KEY, n int); CREATE TABLE t1 (k int PRIMARY KEY, p int REFERENCES t0);
CREATE TRIGGER c_told AFTER TRUNCATE ON t0 FOR EACH STATEMENT EXECUTE FUNCTION audited();
CREATE TRIGGER c_told AFTER TRUNCATE ON t1 FOR EACH STATEMENT EXECUTE FUNCTION audited();
--- client postgres
--- simple
TRUNCATE t1;
--- simple
TRUNCATE t0 CASCADE;
--- simple
BEGIN; INSERT INTO t0 VALUES (1, 1); TRUNCATE t1; COMMIT;
