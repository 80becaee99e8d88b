-- What tests/proof.rs judges: one database with something of every kind that a verdict depends on.
CREATE EXTENSION IF NOT EXISTS citext;
CREATE EXTENSION IF NOT EXISTS hstore;
CREATE EXTENSION IF NOT EXISTS btree_gist;
CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE EXTENSION IF NOT EXISTS ltree;
CREATE EXTENSION IF NOT EXISTS dblink;
CREATE SCHEMA other;
CREATE SEQUENCE numbers;

CREATE TABLE accounts (id int PRIMARY KEY, name text NOT NULL, balance numeric(12,2) NOT NULL DEFAULT 0, at timestamptz);
INSERT INTO accounts VALUES (1, 'ann', 10, now()), (2, 'bob', 20, now());
CREATE TABLE orders (id int PRIMARY KEY, account int REFERENCES accounts, tags text[], body jsonb);
INSERT INTO orders VALUES (1, 1, '{a,b}', '{"k": 1}'), (2, 2, '{}', '{}');
CREATE TABLE log (line text);
CREATE TABLE parts (id int, v text) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
CREATE MATERIALIZED VIEW totals AS SELECT account, count(*) AS n FROM orders GROUP BY account;
CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));

-- Types.
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE moods (id int, m mood);
CREATE TABLE mood_lists (id int, ms mood[]);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE positives (p positive);
CREATE TYPE pair AS (a int, b text);
CREATE TABLE pairs (p pair);
CREATE TABLE citexts (c citext);
CREATE TABLE hstores (h hstore);
CREATE TABLE catalogued (r regclass, o oid);

-- Functions.
CREATE FUNCTION note(t text) RETURNS int LANGUAGE plpgsql VOLATILE AS $$ BEGIN INSERT INTO log VALUES (t); RETURN 1; END $$;
CREATE FUNCTION twice(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * i';
CREATE FUNCTION stable_balance(i int) RETURNS numeric LANGUAGE sql STABLE AS 'SELECT balance FROM accounts WHERE id = i';
CREATE FUNCTION full_name(a accounts) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT a.name';
CREATE FUNCTION noted(a accounts) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT note(a.name)';
CREATE FUNCTION overloaded(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT i';
CREATE FUNCTION other.overloaded(i text) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT note(i)';
CREATE FUNCTION happiest() RETURNS mood LANGUAGE sql IMMUTABLE AS $$ SELECT 'happy'::mood $$;
CREATE FUNCTION is_happy(m mood) RETURNS bool LANGUAGE sql IMMUTABLE AS $$ SELECT m = 'happy' $$;
CREATE FUNCTION listed_as_read() RETURNS int LANGUAGE plpgsql VOLATILE AS $$ BEGIN RETURN 1; END $$;
CREATE FUNCTION listed_as_write() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE FUNCTION other.listed_by_schema() RETURNS int LANGUAGE plpgsql VOLATILE AS $$ BEGIN RETURN 1; END $$;
CREATE FUNCTION noting_sum(state int, v int) RETURNS int LANGUAGE sql VOLATILE AS $$ SELECT state + v + 0 * note('sum') $$;
CREATE AGGREGATE noted_total(int) (SFUNC = noting_sum, STYPE = int, INITCOND = '0');
CREATE FUNCTION plain_sum(state int, v int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT state + v';
CREATE FUNCTION noting_end(state int) RETURNS int LANGUAGE sql VOLATILE AS $$ SELECT state + 0 * note('end') $$;
CREATE AGGREGATE plain_total(int) (SFUNC = plain_sum, STYPE = int, INITCOND = '0');
CREATE AGGREGATE noted_end(int) (SFUNC = plain_sum, STYPE = int, INITCOND = '0', FINALFUNC = noting_end);

CREATE FUNCTION noting_default(i int DEFAULT note('default')) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT i';
CREATE FUNCTION plain_default(i int DEFAULT 1 + 1) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT i';
CREATE FUNCTION setting_default(t text DEFAULT current_setting('app.tenant', true)) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT t';
CREATE FUNCTION all_accounts() RETURNS SETOF accounts LANGUAGE sql STABLE AS 'SELECT * FROM accounts';
CREATE FUNCTION some_accounts() RETURNS TABLE (id int, name text) LANGUAGE sql STABLE AS 'SELECT id, name FROM accounts';

-- Operators and casts.
CREATE FUNCTION noting_less(a int, b text) RETURNS bool LANGUAGE sql VOLATILE AS $$ SELECT note('op') > a $$;
CREATE OPERATOR <<<< (LEFTARG = int, RIGHTARG = text, FUNCTION = noting_less);
CREATE FUNCTION plain_less(a int, b text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT a < length(b)';
CREATE OPERATOR <<<| (LEFTARG = int, RIGHTARG = text, FUNCTION = plain_less);
CREATE TYPE money_bag AS (cents int);
CREATE FUNCTION bag_of(i int) RETURNS money_bag LANGUAGE sql IMMUTABLE AS 'SELECT ROW(i)::money_bag';
CREATE CAST (int AS money_bag) WITH FUNCTION bag_of(int);
CREATE TYPE cursed_bag AS (cents int);
CREATE FUNCTION cursed_of(i int) RETURNS cursed_bag LANGUAGE sql VOLATILE AS 'SELECT ROW(i + 0 * note(''cast''))::cursed_bag';
CREATE CAST (int AS cursed_bag) WITH FUNCTION cursed_of(int) AS IMPLICIT;
CREATE FUNCTION weigh(b cursed_bag) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT b.cents';
CREATE TABLE cursed (b cursed_bag);
CREATE FUNCTION noting_check(i int) RETURNS bool LANGUAGE sql VOLATILE AS $$ SELECT note('check') = 1 $$;
CREATE DOMAIN noted_domain AS int CHECK (noting_check(VALUE));
CREATE TABLE noted_domains (d noted_domain);
CREATE FUNCTION takes_noted(d noted_domain) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';

CREATE DOMAIN domain_below AS noted_domain;
CREATE TYPE with_domain AS (d noted_domain[]);
CREATE TYPE cell AS (x int);
CREATE FUNCTION cell_is(a cell, b cell) RETURNS bool LANGUAGE sql VOLATILE AS $$ SELECT note('is') = a.x $$;
CREATE OPERATOR === (LEFTARG = cell, RIGHTARG = cell, FUNCTION = cell_is);
CREATE FUNCTION cell_hash(a cell) RETURNS int LANGUAGE sql VOLATILE AS $$ SELECT note('hash') $$;
CREATE OPERATOR CLASS cell_ops DEFAULT FOR TYPE cell USING hash AS OPERATOR 1 ===, FUNCTION 1 cell_hash(cell);
CREATE TABLE cells (c cell);
CREATE TYPE span AS RANGE (subtype = numeric);
CREATE FUNCTION numeric_gap(a numeric, b numeric) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$ SELECT note('gap')::float8 $$;
CREATE TYPE noted_span AS RANGE (subtype = numeric, subtype_diff = numeric_gap);
ALTER FUNCTION numeric_gap VOLATILE;
CREATE TABLE spans (s noted_span);

-- Views.
CREATE VIEW plain_view AS SELECT a.name, sum(o.id) AS s FROM accounts a JOIN orders o ON o.account = a.id GROUP BY a.name;
CREATE VIEW view_of_view AS SELECT name FROM plain_view WHERE s BETWEEN 1 AND 3;
CREATE VIEW counting AS SELECT nextval('numbers') AS n;
CREATE VIEW counting_below AS SELECT n + 1 AS n FROM counting;
CREATE VIEW dice AS SELECT random() AS r;
CREATE VIEW my_setting AS SELECT current_setting('app.tenant', true) AS s;
CREATE VIEW noting_view AS SELECT note(name) FROM accounts;
CREATE VIEW noting_operator AS SELECT id FROM accounts WHERE id <<<< name;
CREATE VIEW noting_aggregate AS SELECT noted_total(id) FROM accounts;
CREATE VIEW noting_window AS SELECT noted_total(id) OVER (ORDER BY id) FROM accounts;
CREATE VIEW noting_subquery AS SELECT id FROM accounts WHERE EXISTS (SELECT FROM counting_below);
CREATE VIEW catalogue_view AS SELECT relname FROM pg_class;
CREATE VIEW ctids AS SELECT id FROM accounts WHERE ctid <> '(0,9)';
CREATE VIEW locking AS SELECT id FROM accounts FOR UPDATE;
CREATE VIEW sampled AS SELECT id FROM accounts TABLESAMPLE bernoulli (100);
CREATE VIEW whole_rows AS SELECT accounts FROM accounts;
CREATE VIEW json_rows AS SELECT row_to_json(accounts) AS j FROM accounts;
CREATE VIEW checked AS SELECT id::noted_domain::int AS id FROM accounts;
CREATE VIEW sequence_view AS SELECT last_value FROM numbers;
CREATE VIEW mood_view AS SELECT id, m::text AS m FROM moods;

-- Policies.
CREATE TABLE tenants (tenant text, v int);
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON tenants USING (tenant = current_setting('app.tenant', true));
CREATE TABLE noted_tenants (tenant text, v int);
ALTER TABLE noted_tenants ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON noted_tenants USING (note(tenant) = 1);
CREATE VIEW tenants_view AS SELECT v FROM noted_tenants;

-- Inheritance.
CREATE TABLE parent (a int);
CREATE TABLE child (b int) INHERITS (parent);
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE far (a int) SERVER nowhere;
CREATE TABLE near (a int);
CREATE FOREIGN TABLE near_child () INHERITS (near) SERVER nowhere;
