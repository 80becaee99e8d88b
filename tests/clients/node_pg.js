// What a service on node-postgres does: a pool, named statements, cursors, COPY streams, notifications.
// Prints what it sees; the same run on a direct connection must print the same. Usage: node_pg.js URL

const { Client, Pool, types } = require('pg');
const Cursor = require('pg-cursor');
const copy = require('pg-copy-streams');
const { pipeline } = require('node:stream/promises');
const { Readable } = require('node:stream');

const url = process.argv[2];
const show = (what, value) => console.log(`${what}: ${JSON.stringify(value)}`);
const caught = (e) => show('caught', [e.code, e.severity, e.message, e.detail, e.hint, e.position, e.constraint, e.table]);
const failing = async (what) => { try { await what(); show('no error', null); } catch (e) { caught(e); } };

async function schema(pool) {
  const several = await pool.query(`
    CREATE TABLE np_users (id int PRIMARY KEY, mail text UNIQUE, seen timestamptz, extra jsonb, tags text[], raw bytea, big bigint, n numeric);
    CREATE TABLE np_posts (id int PRIMARY KEY, author int REFERENCES np_users, body text);
    INSERT INTO np_users (id, mail) VALUES (1, 'a@x'), (2, 'b@x');
    SELECT id, mail FROM np_users ORDER BY id`);
  show('several', several.map((r) => [r.command, r.rowCount, r.rows]));
}

async function values(pool) {
  const row = [3, 'ü@x', new Date(Date.UTC(2024, 1, 29, 1, 2, 3, 4)), { a: [1, null] }, ['x', null, 'q"'], Buffer.from([0, 255]), '9007199254740993', '1.50'];
  const made = await pool.query('INSERT INTO np_users VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING *', row);
  show('made', [made.command, made.rowCount, made.rows]);
  for (const binary of [false, true]) {
    const found = await pool.query({ text: 'SELECT id, raw, big::text, mail FROM np_users WHERE id = $1', values: [3], binary });
    show(`found, binary ${binary}`, [found.fields.map((f) => [f.name, f.dataTypeID, f.format]), found.rows]);
  }
  show('array rows', (await pool.query({ text: 'SELECT id, mail FROM np_users ORDER BY id', rowMode: 'array' })).rows);
  show('null', (await pool.query('SELECT $1::text AS a, $2::int[] AS b, $3::json AS c', [null, [1, 2], '{"z":1}'])).rows);
}

async function named(pool) {
  const client = await pool.connect();
  for (let n = 0; n < 10; n += 1) {
    const query = { name: 'by-id', text: 'SELECT mail FROM np_users WHERE id = $1', values: [1 + (n % 3)] };
    show('named', (await client.query(query)).rows);
    await client.query({ name: 'touch', text: 'UPDATE np_users SET big = coalesce(big, 0) + $1 WHERE id = $2', values: [n, 1] });
  }
  // The proxy's own are among them.
  const own = "SELECT name, statement FROM pg_prepared_statements WHERE name NOT LIKE '\\_pgls%' ORDER BY name";
  show('prepared', (await client.query(own)).rows);
  await failing(() => client.query({ name: 'wrong', text: 'SELECT nothing FROM np_users' }));
  await failing(() => client.query({ name: 'wrong', text: 'SELECT nothing FROM np_users' }));
  client.release();
}

async function transactions(pool) {
  const client = await pool.connect();
  await client.query('BEGIN');
  await client.query('INSERT INTO np_posts VALUES ($1, $2, $3)', [1, 1, 'first']);
  await client.query('SAVEPOINT s');
  await failing(() => client.query('INSERT INTO np_posts VALUES ($1, $2, $3)', [2, 99, 'nobody']));
  await failing(() => client.query('SELECT 1'));
  await client.query('ROLLBACK TO SAVEPOINT s');
  await client.query('INSERT INTO np_posts VALUES (3, 2, \'third\')');
  show('commit', (await client.query('COMMIT')).command);
  await client.query('BEGIN');
  await failing(() => client.query('SELECT 1/0'));
  show('commit of a failed one', (await client.query('COMMIT')).command);
  await client.query('BEGIN READ ONLY');
  show('count', (await client.query('SELECT count(*) FROM np_posts')).rows);
  await failing(() => client.query('INSERT INTO np_posts VALUES (4, 1, \'x\')'));
  await client.query('ROLLBACK');
  await client.query('BEGIN ISOLATION LEVEL SERIALIZABLE');
  await client.query('UPDATE np_posts SET body = $1 WHERE id = $2', ['serial', 1]);
  await client.query('COMMIT');
  client.release();
  show('posts', (await pool.query('SELECT * FROM np_posts ORDER BY id')).rows);
  // Not awaited one by one: node-postgres queues them.
  const client2 = await pool.connect();
  const queued = await Promise.allSettled([
    client2.query('BEGIN'), client2.query('INSERT INTO np_posts VALUES (10, 1, \'q\')'), client2.query('SELECT count(*)::int AS n FROM np_posts'),
    client2.query('SELECT * FROM nowhere'), client2.query('SELECT 1'), client2.query('ROLLBACK'), client2.query('SELECT count(*)::int AS n FROM np_posts')]);
  show('queued', queued.map((q) => (q.status === 'fulfilled' ? q.value.rows : q.reason.code)));
  client2.release();
}

async function errors(pool) {
  for (const text of ['SELEC 1', 'SELECT * FROM nowhere', 'INSERT INTO np_users (id, mail) VALUES (9, \'a@x\')', 'SELECT \'x\'::int', '', ';', '-- only a comment']) {
    await failing(() => pool.query(text));
  }
  await failing(() => pool.query('SELECT $1::int', ['abc']));
  await failing(() => pool.query('SELECT $1::int', []));
}

async function cursors(pool) {
  const client = await pool.connect();
  const cursor = client.query(new Cursor('SELECT g AS n FROM generate_series(1, $1::int) g', [1000]));
  show('read', (await cursor.read(3)).map((r) => r.n));
  show('more', (await cursor.read(500)).length);
  await cursor.close();
  const rest = client.query(new Cursor('SELECT id FROM np_users ORDER BY id', [], { rowMode: 'array' }));
  let all = [];
  for (let rows = await rest.read(2); rows.length > 0; rows = await rest.read(2)) all = all.concat(rows);
  show('all', all);
  await rest.close();
  await client.query('BEGIN');
  const bad = client.query(new Cursor('SELECT 10 / (5 - g) AS q FROM generate_series(1, 9) g'));
  await failing(async () => { for (let n = 0; n < 9; n += 1) show('row', await bad.read(1)); });
  await client.query('ROLLBACK');
  client.release();
}

async function copies(pool) {
  const client = await pool.connect();
  const lines = Array.from({ length: 5000 }, (_, n) => `${1000 + n}\t${1 + (n % 3)}\tcopied ${n}\n`);
  const into = client.query(copy.from('COPY np_posts FROM STDIN'));
  await pipeline(Readable.from(lines), into);
  show('copied', into.rowCount);
  const out = client.query(copy.to('COPY (SELECT * FROM np_posts WHERE id >= 5997 ORDER BY id) TO STDOUT WITH CSV'));
  let text = '';
  for await (const chunk of out) text += chunk;
  show('out', text);
  await failing(() => pipeline(Readable.from(['1\t1\tagain\n']), client.query(copy.from('COPY np_posts FROM STDIN'))));
  client.release();
}

async function unasked(pool) {
  const client = new Client({ connectionString: url, application_name: 'node' });
  await client.connect();
  const heard = [];
  let done;
  const all = new Promise((resolve) => { done = resolve; });
  client.on('notification', (m) => { heard.push([m.channel, m.payload]); if (m.payload === 'last') done(); });
  const notices = [];
  client.on('notice', (m) => notices.push([m.severity, m.message]));
  await client.query('LISTEN np_news');
  await pool.query('SELECT pg_notify($1, $2)', ['np_news', 'first']);
  await pool.query('NOTIFY np_news, \'last\'');
  await all;
  show('heard', heard);
  await client.query('DROP TABLE IF EXISTS np_nowhere');
  await client.query('DO $$ BEGIN RAISE WARNING \'careful\'; END $$');
  show('notices', notices);
  await client.query('SET statement_timeout = 200');
  await failing(() => client.query('SELECT pg_sleep(20)'));
  const pid = (await client.query('SELECT pg_backend_pid() AS pid')).rows[0].pid;
  await client.query('RESET statement_timeout');
  const slow = client.query('SELECT pg_sleep(60)').catch((e) => e);
  await new Promise((resolve) => { setTimeout(resolve, 400); });
  show('pg_cancel_backend', (await pool.query('SELECT pg_cancel_backend($1)', [pid])).rows);
  caught(await slow);
  show('application', (await client.query('SHOW application_name')).rows);
  await client.end();
}

async function side_by_side(pool) {
  const work = Array.from({ length: 40 }, (_, n) => pool.query('UPDATE np_users SET big = coalesce(big, 0) + 1 WHERE id = $1 RETURNING id', [1 + (n % 3)]));
  show('updated', (await Promise.all(work)).map((r) => r.rows[0].id));
  show('sums', (await pool.query('SELECT id, big FROM np_users ORDER BY id')).rows);
}

async function main() {
  const pool = new Pool({ connectionString: url, max: 4 });
  for (const part of [schema, values, named, transactions, errors, cursors, copies, unasked, side_by_side]) {
    console.log(`-- ${part.name}`);
    await part(pool);
  }
  await pool.end();
}

main().catch((e) => { console.error(e); process.exit(1); });
