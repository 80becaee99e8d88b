use super::super::decode::{self, Line};
use super::super::facts::Column;
use super::*;

fn relation(name: &str) -> Relation {
    Relation { schema: Bytes::from_static(b"public"), name: Bytes::copy_from_slice(name.as_bytes()) }
}

/// `*` behind a name: of the key; `!`: identity ALWAYS; `=`: generated.
fn facts(identity: Identity, full: bool, columns: &[&str]) -> Facts {
    let column = |c: &&str| Column {
        name: Bytes::copy_from_slice(c.trim_end_matches(['*', '!', '=']).as_bytes()),
        generated: c.contains('='),
        always: c.contains('!'),
        key: c.contains('*').then_some(Bytes::from_static(b"=")),
    };
    let columns = columns.iter().map(column).collect();
    let table = Table { partitioned: false, unlogged: false, identity, full, problem: None, columns };
    Facts(HashMap::from([(relation("t"), Arc::new(table))]))
}

fn steps(facts: &Facts, lines: &[&str]) -> Result<Vec<String>, Refusal> {
    let mut b = Builder::new(facts, "UTF8");
    for text in lines {
        let Some(Line::Change(change)) = decode::line(&Bytes::copy_from_slice(text.as_bytes())) else {
            panic!("{text}");
        };
        b.add(change)?;
    }
    let steps = b.finish()?;
    let show = |s: &Step| match s {
        Step::Statement { sql, bind, tag, .. } => {
            let values = String::from_utf8_lossy(&bind[4..bind.len() - 2]).replace('\0', "").replace('\u{fffd}', "~");
            let values: String = values.chars().filter(|c| !c.is_control()).collect();
            format!("{} <{values}> {}", String::from_utf8_lossy(sql), tag.unwrap_or_default())
        }
        Step::Copy { sql, count, .. } => format!("{} {count}", String::from_utf8_lossy(sql)),
    };
    Ok(steps.iter().skip(1).map(show).collect())
}

#[test]
fn rows_are_found_by_their_key_as_it_was() {
    let f = facts(Identity::Key, false, &["id*", "v", "g="]);
    let lines = [
        "table public.t: INSERT: id[integer]:1 v[text]:'x' g[integer]:2",
        "table public.t: UPDATE: id[integer]:1 v[text]:unchanged-toast-datum g[integer]:2",
        "table public.t: UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:2 v[text]:null g[integer]:4",
        "table public.t: DELETE: id[integer]:2",
        "table public.t: TRUNCATE: restart_seqs cascade",
    ];
    let expected = [
        "INSERT INTO \"public\".\"t\" (\"id\", \"v\") OVERRIDING SYSTEM VALUE VALUES ($1, $2) <1x> INSERT 0 1",
        "UPDATE ONLY \"public\".\"t\" SET \"id\" = $1 WHERE \"id\" = $2 <11> UPDATE 1",
        "UPDATE ONLY \"public\".\"t\" SET \"id\" = $1, \"v\" = $2 WHERE \"id\" = $3 <2~~~~1> UPDATE 1",
        "DELETE FROM ONLY \"public\".\"t\" WHERE \"id\" = $1 <2> DELETE 1",
        "TRUNCATE ONLY \"public\".\"t\" RESTART IDENTITY <> TRUNCATE TABLE",
    ];
    assert_eq!(steps(&f, &lines).unwrap(), expected);
}

#[test]
fn identity_always_columns_that_may_have_changed_are_deleted_and_inserted() {
    let f = facts(Identity::Key, false, &["id*!", "v"]);
    let same = steps(&f, &["table public.t: UPDATE: id[integer]:1 v[integer]:2"]).unwrap();
    assert_eq!(same, ["UPDATE ONLY \"public\".\"t\" SET \"v\" = $1 WHERE \"id\" = $2 <21> UPDATE 1"]);
    let moved = "table public.t: UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:9 v[integer]:2";
    let moved = steps(&f, &[moved]).unwrap();
    assert!(moved.len() == 2 && moved[0].starts_with("DELETE") && moved[1].starts_with("INSERT"), "{moved:?}");
    let f = facts(Identity::Key, false, &["k*", "id!"]);
    let unknown = steps(&f, &["table public.t: UPDATE: k[integer]:1 id[integer]:2"]).unwrap();
    assert_eq!(unknown.len(), 2);
}

#[test]
fn rows_without_a_key_are_found_by_all_columns_or_refused() {
    let f = facts(Identity::All, true, &["a", "b"]);
    let lines = ["table public.t: UPDATE: old-key: a[integer]:1 new-tuple: a[integer]:1 b[json]:'{}'"];
    let told = steps(&f, &lines).unwrap();
    assert!(told[0].contains("WHERE ctid = (SELECT ctid FROM ONLY \"public\".\"t\" WHERE "), "{told:?}");
    assert!(told[0].contains("\"b\" IS NOT DISTINCT FROM NULL LIMIT 1)"), "{told:?}");
    let f = facts(Identity::None, false, &["a", "b"]);
    assert_eq!(steps(&f, &["table public.t: INSERT: a[integer]:1 b[text]:null"]).unwrap().len(), 1);
    for line in ["table public.t: UPDATE: a[integer]:1 b[text]:null", "table public.t: DELETE: (no-tuple-data)"] {
        let Err(refusal) = steps(&f, &[line]) else { panic!("{line}") };
        assert_eq!(refusal.error().sqlstate, "0A000");
    }
}

#[test]
fn many_rows_of_one_table_become_one_copy_and_keep_their_place() {
    let f = facts(Identity::Key, false, &["id*"]);
    let inserts: Vec<String> = (0..100).map(|i| format!("table public.t: INSERT: id[integer]:{i}")).collect();
    let mut lines: Vec<&str> = inserts.iter().map(String::as_str).collect();
    lines.insert(0, "table public.t: DELETE: id[integer]:5");
    lines.push("table public.t: DELETE: id[integer]:6");
    let told = steps(&f, &lines).unwrap();
    assert_eq!(told.len(), 3);
    assert_eq!(told[1], "COPY \"public\".\"t\" (\"id\") FROM STDIN 100");
}
