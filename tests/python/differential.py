"""The same statements through the proxy and on a plain server, by both protocols: every answer must be the same.

usage: differential.py URL_OF_THE_PROXY URL_OF_A_SERVER
The databases must not be the same one, and must be without a table x.
"""

import itertools
import sys

import psycopg

STATEMENTS = [
    'drop table if exists x',
    'create table x(a int primary key, b int)',
    'insert into x values(1,1); insert into x values (2,2)',
    'insert into x values(3,3); insert into x values (1,1)',
    'select count(*) from x',
    'begin; insert into x values (4,4); commit; insert into x values (5,5)',
    'begin; insert into x values (6,6); rollback; insert into x values (7,7)',
    'select 1; select 2',
    'begin; select 1/0',
    'select 1',
    'commit',
    'select * from x order by a',
    'savepoint s',
    'begin',
    'savepoint s',
    'insert into x values (1,1)',
    'rollback to s',
    'insert into x values (8,8)',
    'release s',
    'commit',
    'rollback',
    'end',
    'update x set b=b+1 returning a',
    'delete from x where a=1 returning *',
    'with d as (delete from x where a=2 returning a) select * from d',
    'truncate x',
    'insert into x select g,g from generate_series(1,5) g',
    'merge into x using (values (1),(9)) v(i) on x.a=v.i when matched then update set b=100 when not matched then insert values (v.i,0)',
    'table x',
    'values (1),(2)',
    'explain (costs off) select * from x',
    'show transaction_isolation',
    'begin isolation level serializable; show transaction_isolation; commit',
    "set application_name='zz'; show application_name",
    'prepare p as select 1',
    'deallocate all',
    'vacuum x',
    'begin; vacuum x',
    'rollback',
    'create index concurrently xi on x(b)',
    'drop index xi',
    "comment on table x is 'hi'",
    "select obj_description('x'::regclass)",
    'do $$ begin insert into x values (50,50); end $$',
    'select max(a) from x',
    "create function addx(i int) returns int language sql as 'insert into x values(i,i) returning a'",
    'select addx(60)',
    'select addx(61), random() >= 0',
    'create view xv as select * from x',
    'insert into xv values (70,70)',
    'lock table x',
    'begin; lock table x; commit',
    'notify foo',
    'listen foo',
    'select 1',
    'grant select on x to public',
    'alter table x add c int default 5',
    'select * from x order by a limit 2',
    "create type mood as enum ('a','b')",
    'create table m(a mood)',
    "insert into m values ('a')",
    'select * from m',
    'drop table m; drop type mood',
    'drop view xv',
    'drop function addx',
    'begin; declare cc cursor for select a from x order by a; fetch 2 from cc; move 1 from cc; fetch 1 from cc; close cc; commit',
    'begin read only; insert into x values (99,99)',
    'rollback',
    'begin read only; select count(*) from x; commit',
    'begin; set local statement_timeout=50; select pg_sleep(1)',
    'rollback',
    'select pg_advisory_lock(1), pg_advisory_unlock(1)',
    'set role none',
    'select current_user',
    'begin; insert into x values (200,1); savepoint a; insert into x values (201,1); savepoint b; insert into x values (202,1); rollback to a; insert into x values (203,1); commit',
    'select a from x where a>=200 order by a',
    '',
    ' ;; ',
    "select 'a;b', $$c;d$$",
    'commit and chain',
    'begin; insert into x values (300,1); commit and chain; insert into x values (301,1); rollback',
    'select a from x where a>=300',
]


def answers(url, prepare):
    """What each statement is answered with: tags and rows of all results, or SQLSTATE and message."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS x, m CASCADE")
        for sql in STATEMENTS:
            cursor = connection.cursor()
            try:
                cursor.execute(sql, prepare=prepare)
                results = []
                while True:
                    results.append((cursor.statusmessage, cursor.fetchall() if cursor.description else None))
                    if not cursor.nextset():
                        break
                yield sql, results
            except psycopg.Error as error:
                yield sql, error.sqlstate, str(error).splitlines()[:1]


def main():
    proxy, server = sys.argv[1:]
    differ = 0
    for prepare in (None, True):
        for ours, theirs in itertools.zip_longest(answers(proxy, prepare), answers(server, prepare)):
            if ours != theirs:
                differ += 1
                print(f"prepare={prepare}\n  proxy:  {ours}\n  server: {theirs}")
    print(f"{2 * len(STATEMENTS)} statements, {differ} answered in another way")
    sys.exit(1 if differ else 0)


main()
