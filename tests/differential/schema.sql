DROP SCHEMA IF EXISTS public CASCADE;
DROP SCHEMA IF EXISTS other CASCADE;
CREATE SCHEMA public;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE t (id int PRIMARY KEY, a int, b text, c numeric(10,2) DEFAULT 0);
CREATE TABLE u (k text PRIMARY KEY, v int NOT NULL CHECK (v >= 0), t_id int REFERENCES t);
CREATE TABLE nokey (x int, y text);
CREATE TABLE d (id int PRIMARY KEY, n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE m (id int PRIMARY KEY, mood mood, arr int[], j jsonb, at timestamptz, bytes bytea, f float8);
CREATE TABLE log (what text, id int);
CREATE VIEW tv AS SELECT id, a FROM t WHERE a IS NOT NULL;
CREATE FUNCTION add(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + $2';
CREATE FUNCTION boom(text) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'boom %', $1 USING ERRCODE = 'P0042', DETAIL = 'the detail', HINT = 'the hint', COLUMN = 'a', TABLE = 't';
END $$;
CREATE FUNCTION note(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'note %', $1; RETURN $1; END $$;
CREATE FUNCTION put(i int, s text) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO nokey VALUES (i, s);
  RETURN i;
END $$;
CREATE PROCEDURE take(i int) LANGUAGE plpgsql AS $$ BEGIN DELETE FROM nokey WHERE x = i; END $$;
CREATE FUNCTION logs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO log VALUES (TG_OP, coalesce(NEW.id, OLD.id));
  RETURN NULL;
END $$;
CREATE TRIGGER logs AFTER INSERT OR UPDATE OR DELETE ON m FOR EACH ROW EXECUTE FUNCTION logs();
