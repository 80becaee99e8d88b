-- CREATE TEMP TABLE between two statements that may do anything was taken for DDL, and the transaction went by its text.
--- world snapshot_isolation images = true
--- setup
CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN lucky AS int DEFAULT (random() * 100)::int CHECK (value >= 0); CREATE SEQUENCE shared START 2000;
CREATE FUNCTION stamp() RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT 's' || clock_timestamp() $$;
CREATE TABLE audit (id serial PRIMARY KEY, at timestamptz DEFAULT now(), what text, r float8 DEFAULT random());
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
CREATE TABLE t0 (k int, n int, c0 timestamptz DEFAULT now(), g int GENERATED ALWAYS AS (n * 2) STORED, PRIMARY KEY (k));
--- setup
INSERT INTO t0 (n, k) SELECT g, g FROM generate_series(1, 12) g;
--- setup
CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit (what) VALUES (tg_op);
RETURN coalesce(new, old); END $$;
CREATE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.n := NEW.n + (random() * 3)::int; RETURN NEW; END $$;
CREATE FUNCTION skipped() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF random() < 0.3 THEN RETURN NULL; END IF;
RETURN coalesce(new, old); END $$;
CREATE FUNCTION sent_on() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit (what) VALUES ('sent ' || NEW.n); RETURN NULL; END $$;
CREATE TRIGGER a_touch BEFORE INSERT OR UPDATE ON t0 FOR EACH ROW EXECUTE FUNCTION touched();
CREATE TRIGGER b_audit AFTER INSERT OR UPDATE OR DELETE ON t0 FOR EACH ROW EXECUTE FUNCTION audited();
CREATE VIEW v0 AS SELECT k, n FROM t0 WHERE n < 60;
CREATE FUNCTION instead_0() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
INSERT INTO t0 (k, n) VALUES (NEW.k, NEW.n + (random() * 3)::int); RETURN NEW; END $$;
CREATE TRIGGER i INSTEAD OF INSERT ON v0 FOR EACH ROW EXECUTE FUNCTION instead_0();
CREATE FUNCTION place(m int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
INSERT INTO t0 (k, n) SELECT (random() * 100000)::int, 100 + (random() * 100000)::int FROM generate_series(1, m); RETURN m; END $$;
CREATE FUNCTION looks(m int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN m; END $$;
CREATE FUNCTION peeks(m int) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM t0 WHERE n < m';
CREATE PROCEDURE settle(m int) LANGUAGE plpgsql AS $$ BEGIN UPDATE t0 SET n = n + (random() * 10)::int WHERE n % 3 = m % 3; END $$;
GRANT ALL ON ALL TABLES IN SCHEMA public TO app; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app;
--- client postgres
--- simple
BEGIN; WITH d AS (DELETE FROM t0 WHERE k = 1 RETURNING n) INSERT INTO t0 (k, n) SELECT d.n + 200, d.n FROM d; CREATE TEMP TABLE IF NOT EXISTS mine AS SELECT n FROM t0; INSERT INTO mine VALUES (1); SELECT setval('shared', 3000); COMMIT;
--- simple
COMMIT;
