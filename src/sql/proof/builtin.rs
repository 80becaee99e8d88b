//! PostgreSQL's own functions, types and columns whose results are not the same on every node, or that write.
//!
//! Versions 12 to 18. What is not known here errs towards main: volatile built-ins, and all whose names begin with
//! `pg_`, run there unless they are listed as plain.

use super::Effect;

/// Built-ins that write rows, advance sequences, touch files, large objects or the WAL, or run SQL (or input functions)
/// that is given as a value. `set_config` changes settings that the text does not show: the session must treat it like
/// a function that nobody knows (hazard 22).
const WRITES: [&str; 26] = [
    "array_in",
    "array_recv",
    "domain_in",
    "domain_recv",
    "gin_clean_pending_list",
    "loread",
    "lowrite",
    "multirange_in",
    "multirange_recv",
    "nextval",
    "pg_extension_config_dump",
    "pg_import_system_collations",
    "pg_nextoid",
    "pg_promote",
    "pg_stop_making_pinned_objects",
    "pg_switch_wal",
    "plpgsql_call_handler",
    "plpgsql_inline_handler",
    "range_in",
    "range_recv",
    "record_in",
    "record_recv",
    "set_config",
    "setval",
    "ts_rewrite",
    "ts_stat",
];

/// The same, by the beginnings of their names.
const WRITES_BY_PREFIX: [&str; 20] = [
    "binary_upgrade_",
    "brin_desummarize_",
    "brin_summarize_",
    "cursor_to_xml",
    "database_to_xml",
    "lo_",
    "pg_clear_",
    "pg_copy_",
    "pg_create_",
    "pg_drop_",
    "pg_file_",
    "pg_input_",
    "pg_logical_",
    "pg_replication_",
    "pg_restore_",
    "pg_set_",
    "pg_sync_",
    "query_to_xml",
    "schema_to_xml",
    "table_to_xml",
];

/// Functions of large objects that only read. Those that open, move or close a descriptor are not among them: a
/// replica must have the same one, at the same place, when lowrite comes.
const LARGE_OBJECT_READS: [&str; 3] = ["lo_get", "lo_tell", "lo_tell64"];

/// Non-volatile built-ins that depend on the node, its catalogues' OIDs or the connection.
const NODE_DEPENDENT: [&str; 18] = [
    "aclexplode",
    "aclitemin",
    "aclitemout",
    "col_description",
    "current_schemas",
    "current_setting",
    "format_type",
    "get_current_ts_config",
    "inet_client_addr",
    "inet_client_port",
    "inet_server_addr",
    "inet_server_port",
    "makeaclitem",
    "mxid_age",
    "obj_description",
    "oidvectortypes",
    "shobj_description",
    "version",
];

/// The same, by the beginnings of their names.
const NODE_DEPENDENT_BY_PREFIX: [&str; 8] =
    ["_pg_", "fmgr_", "has_", "pg_", "row_security_active", "system_user", "to_reg", "txid_"];

/// Built-ins whose names begin with `pg_` and that are plain all the same.
const PLAIN: [&str; 6] = [
    "pg_char_to_encoding",
    "pg_client_encoding",
    "pg_encoding_max_length",
    "pg_encoding_to_char",
    "pg_size_bytes",
    "pg_size_pretty",
];

/// What the built-in functions of this name do. `volatile`: provolatile is 'v'.
pub(super) fn function(name: &str, volatile: bool) -> Effect {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|p| name.starts_with(p));
    if WRITES.contains(&name) || (begins(&WRITES_BY_PREFIX) && !LARGE_OBJECT_READS.contains(&name)) {
        Effect::Unknown
    } else if PLAIN.contains(&name) && !volatile {
        Effect::Read
    } else if volatile || NODE_DEPENDENT.contains(&name) || begins(&NODE_DEPENDENT_BY_PREFIX) || is_reg_cast(name) {
        Effect::MainOnly
    } else {
        Effect::Read
    }
}

/// Casts to OID alias types and their input and output functions; `regexp_replace` and `regr_count` are none.
fn is_reg_cast(name: &str) -> bool {
    const ALIASES: [&str; 12] = [
        "regclass",
        "regcollation",
        "regconfig",
        "regdatabase",
        "regdictionary",
        "regnamespace",
        "regoperator",
        "regoper",
        "regprocedure",
        "regproc",
        "regrole",
        "regtype",
    ];
    ALIASES
        .iter()
        .any(|alias| name.strip_prefix(alias).is_some_and(|rest| matches!(rest, "" | "in" | "out" | "recv" | "send")))
}

/// Words that stand for what each node has its own of: columns that every table has, and SYSTEM_USER, which is a call
/// without parentheses.
pub(super) fn is_node_word(name: &str) -> bool {
    matches!(name, "ctid" | "xmin" | "xmax" | "cmin" | "cmax" | "tableoid" | "system_user")
}

/// What the grammar calls by a keyword, and no catalogue lists.
pub(super) fn is_keyword_function(name: &str) -> bool {
    matches!(
        name,
        "coalesce"
            | "nullif"
            | "greatest"
            | "least"
            | "row"
            | "array"
            | "grouping"
            | "current_date"
            | "current_time"
            | "current_timestamp"
            | "localtime"
            | "localtimestamp"
            | "current_role"
            | "current_user"
            | "session_user"
            | "user"
            | "current_catalog"
            | "current_schema"
    )
}

/// What `sql::literals` replaces by main's time.
pub(super) fn is_time_function(name: &str) -> bool {
    matches!(
        name,
        "now"
            | "transaction_timestamp"
            | "current_date"
            | "current_time"
            | "current_timestamp"
            | "localtime"
            | "localtimestamp"
    )
}

/// Functions that give another value at each call and write nothing but a sequence: nextval, and those of extensions
/// (uuid-ossp, pgcrypto), which a catalogue lists as any volatile function of users.
pub(super) fn is_harmless_generator(name: &str) -> bool {
    matches!(
        name,
        "nextval"
            | "gen_random_uuid"
            | "gen_random_bytes"
            | "uuid_generate_v1"
            | "uuid_generate_v1mc"
            | "uuid_generate_v4"
            | "uuid_generate_v7"
    )
}

/// Functions that make text or numbers of a whole row: its type's OID does not leave the server.
pub(super) fn swallows_rows(name: &str) -> bool {
    matches!(
        name,
        "count"
            | "row_to_json"
            | "to_json"
            | "to_jsonb"
            | "json_agg"
            | "jsonb_agg"
            | "json_build_object"
            | "jsonb_build_object"
            | "json_build_array"
            | "jsonb_build_array"
            | "json_object_agg"
            | "jsonb_object_agg"
    )
}
