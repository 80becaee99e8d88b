-- RETURNING * in binary gives regclass as main's OID, which replicas were given.
--- world snapshot_isolation images = true
--- setup
CREATE TABLE audit (id serial PRIMARY KEY);
CREATE TABLE t0 (k int PRIMARY KEY, n int, c0 regclass);
--- client postgres
--- text ["1","audit"]
INSERT INTO t0 (k, n, c0) VALUES ($1, (random() * 80)::int, $2) RETURNING *;
--- binary ["2"]
INSERT INTO t0 (k, n, c0) VALUES ($1, (random() * 80)::int, 'audit'::regclass) RETURNING *;
--- simple
SELECT 1;
