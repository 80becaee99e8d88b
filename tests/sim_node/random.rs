//! Random interleavings of a few sessions on a few rows.

use super::script::{Script, read};

/// A generator of numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[usize::try_from(self.below(list.len() as u64)).unwrap()]
    }
}

const SETUP: &str = "setup CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE, v int); \
    CREATE TABLE p (id int PRIMARY KEY, v int); \
    CREATE TABLE c (id int PRIMARY KEY, pid int REFERENCES p, v int); \
    CREATE TABLE d (id int PRIMARY KEY, pid int REFERENCES p DEFERRABLE INITIALLY DEFERRED); \
    INSERT INTO t VALUES (1, 10, 0), (2, 20, 0), (3, 30, 0); INSERT INTO p VALUES (1, 0), (2, 0); \
    INSERT INTO c VALUES (1, 1, 0), (2, 2, 0); INSERT INTO d VALUES (1, 1)";

/// `#` is a row, `@` a value; `~` is one of the parents.
const STATEMENTS: &[&str] = &[
    "UPDATE t SET v = v + 1 WHERE id = #",
    "UPDATE t SET v = v + 1 WHERE id = # RETURNING v",
    "UPDATE t SET v = v * 2 WHERE v > 0 AND id = #",
    "UPDATE t SET v = v + 10 WHERE id IN (1, 2, 3) AND v < 3",
    "UPDATE t SET id = @ WHERE id = #",
    "UPDATE t SET u = @ WHERE id = #",
    "DELETE FROM t WHERE id = #",
    "DELETE FROM t WHERE v = 1 AND id < 3",
    "INSERT INTO t VALUES (#, @, 5)",
    "INSERT INTO t VALUES (@, #, 5)",
    "INSERT INTO t VALUES (#, @, 5) ON CONFLICT DO NOTHING",
    "INSERT INTO t VALUES (#, @, 5) ON CONFLICT (id) DO UPDATE SET v = t.v + excluded.v",
    "INSERT INTO t VALUES (@, #, 5) ON CONFLICT (u) DO UPDATE SET v = 100 WHERE t.v < 50",
    "SELECT v FROM t WHERE id = # FOR UPDATE",
    "SELECT v FROM t WHERE id = # FOR SHARE",
    "SELECT id FROM t WHERE id > 1 ORDER BY id LIMIT 1 FOR UPDATE",
    "SELECT id, v FROM t ORDER BY id",
    "SELECT count(*), sum(v) FROM t",
    "INSERT INTO c VALUES (@, ~, 0)",
    "INSERT INTO d VALUES (@, ~)",
    "UPDATE c SET pid = ~ WHERE id = #",
    "UPDATE c SET v = v + 1 WHERE pid = ~",
    "UPDATE p SET v = v + 1 WHERE id = ~",
    "UPDATE p SET id = 3 WHERE id = ~",
    "DELETE FROM p WHERE id = ~",
    "INSERT INTO p VALUES (~, 1)",
    "DELETE FROM c WHERE id = #",
    "DELETE FROM d WHERE pid = ~",
    "SET CONSTRAINTS ALL IMMEDIATE",
];

const CONTROL: &[&str] = &["COMMIT", "COMMIT", "ROLLBACK", "SAVEPOINT a", "ROLLBACK TO a", "RELEASE a"];
const BEGIN: &[&str] = &["BEGIN", "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"];

/// One script; the same for the same seed.
pub fn script(seed: u64) -> Script {
    let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut text = format!("== random {seed}\n{SETUP}\n");
    let sessions = ["s1", "s2", "s3", "s4"];
    for s in sessions {
        text.push_str(&format!("{s}: {}\n", r.of(BEGIN)));
    }
    for _ in 0..r.below(22) + 8 {
        let session = r.of(&sessions);
        let sql = match r.below(10) {
            0 => r.of(BEGIN),
            1 | 2 => r.of(CONTROL),
            _ => r.of(STATEMENTS),
        };
        let (row, value, parent) = (r.below(3) + 1, r.below(4) + 3, r.below(2) + 1);
        let sql = sql.replace('#', &row.to_string()).replace('@', &value.to_string()).replace('~', &parent.to_string());
        text.push_str(&format!("{session}: {sql}\n"));
    }
    for s in sessions {
        text.push_str(&format!("tick\n{s}: {}\n", r.of(&["COMMIT", "ROLLBACK"])));
    }
    for table in ["t", "p", "c", "d"] {
        text.push_str(&format!("s9: SELECT * FROM {table} ORDER BY id\n"));
    }
    read("random", &text).remove(0)
}
