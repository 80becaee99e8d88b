//! What a person who mistypes is told, and that the files in config/ are in order.

use super::*;
use std::time::Duration;

const FILE: &str = "/etc/pglockstep/pglockstep.toml";

/// Six lines, so that what a test adds starts on line 7.
const SMALL: &str =
    "[cluster]\nbackend_clustering_mode = \"native_replication\"\n[[node]]\nid = 0\nbackend_hostname = \"server1\"\n\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new(FILE))
}

/// The error of `SMALL` and `added`, which must name the file, `line` and `key`, and contain all of `words`.
#[track_caller]
fn refused(added: &str, line: usize, key: &str, words: &[&str]) {
    refused_whole(&format!("{SMALL}{added}"), line, key, words);
}

#[track_caller]
fn refused_whole(text: &str, line: usize, key: &str, words: &[&str]) {
    let error = parse(text).expect_err("must be refused");
    let message = error.to_string();
    assert!(message.starts_with(&format!("{FILE}:{line}: {key}: ")), "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

#[test]
fn a_small_file_has_the_defaults_everywhere_else() {
    let config = parse(SMALL).unwrap();
    assert_eq!(config.cluster.backend_clustering_mode, Mode::NativeReplication);
    assert_eq!((config.nodes.len(), config.nodes[0].backend_port), (1, 5432));
    assert_eq!(config.limits.connect_timeout, Duration::from_secs(10));
    assert_eq!(config.replication.script_limit, 64 << 20);
    assert_eq!(config.authentication.pool_passwd, Path::new(""));
    assert_eq!(config.auth_login().0, "pglockstep");
    assert_eq!(config.health_check_login().0, "pglockstep");
}

#[test]
fn bare_numbers_have_the_unit_that_pgpool_gives_the_name() {
    let config = parse(&format!(
        "{SMALL}[limits]\nclient_idle_limit = 5\nconnect_timeout = 5000\nmax_message_size = 65536\n\
         [health_check]\nhealth_check_period = \"3\"\nhealth_check_timeout = 2\n[replication]\nright_of_way = 70\n"
    ))
    .unwrap();
    assert_eq!(config.limits.client_idle_limit, Duration::from_secs(5));
    assert_eq!(config.limits.connect_timeout, Duration::from_secs(5));
    assert_eq!(config.limits.max_message_size, 65536);
    assert_eq!(config.health_check.health_check_period, Duration::from_secs(3));
    assert_eq!(config.health_check.health_check_timeout, Duration::from_secs(2));
    assert_eq!(config.replication.right_of_way, Duration::from_millis(70));
}

#[test]
fn nodes_are_sorted_by_id_and_weights_may_be_whole_numbers() {
    let config = parse(&format!(
        "{}[[node]]\nid = 0\nbackend_hostname = \"b\"\nbackend_weight = 2\n",
        SMALL.replace("id = 0", "id = 1")
    ));
    let config = config.unwrap();
    assert_eq!(config.nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(config.nodes[0].backend_weight, 2.0);
}

#[test]
fn pool_passwd_starts_at_the_configuration_files_directory() {
    let with = |path: &str| {
        let config = parse(&format!("{SMALL}[authentication]\npool_passwd = \"{path}\"\n")).unwrap();
        config.authentication.pool_passwd
    };
    assert_eq!(with("pool_passwd"), Path::new("/etc/pglockstep/pool_passwd"));
    assert_eq!(with("/srv/pool_passwd"), Path::new("/srv/pool_passwd"));
}

#[test]
fn a_mistyped_key_is_told_its_neighbour_and_the_whole_table() {
    let words = ["did you mean \"port\"?", "keys allowed in [listen]", "unix_socket_directories"];
    refused("[listen]\nprot = 1", 8, "listen.prot", &words);
    let words = ["did you mean \"backend_weight\"?", "keys allowed in [[node]]"];
    refused("[[node]]\nid = 1\nbackend_wieght = 1", 9, "node[1].backend_wieght", &words);
}

#[test]
fn a_key_in_the_wrong_table_is_told_the_right_one() {
    refused("[limits]\nwork_dir = \"/tmp\"", 8, "limits.work_dir", &["work_dir belongs into [cluster]"]);
    let numbered = format!("backend_hostname0 = \"server1\"\n{SMALL}");
    refused_whole(&numbered, 1, "backend_hostname0", &["backend_hostname belongs into [[node]]"]);
}

#[test]
fn a_mistyped_table_is_told_its_neighbour_and_all_tables() {
    refused("[lisetn]\nport = 1", 7, "lisetn", &["did you mean \"listen\"?", "[cluster]", "[[node]]"]);
    refused("[banana]", 7, "banana", &["unknown name", "[health_check]"]);
}

#[test]
fn of_several_errors_the_first_in_the_file_is_reported() {
    refused("[listen]\nport = 0\npcp_port = 0\n[cluser]\n[apply]\nx = 1", 8, "listen.port", &["1 to 65535"]);
}

#[test]
fn values_out_of_range_or_of_the_wrong_type_are_told_the_range() {
    let cases: [(&str, &str, &[&str]); 21] = [
        ("[listen]\nport = 0", "listen.port", &["0 is not", "whole number from 1 to 65535"]),
        ("[listen]\nport = 65536", "listen.port", &["65536 is not", "1 to 65535"]),
        ("[listen]\nport = -1", "listen.port", &["-1 is not", "1 to 65535"]),
        ("[listen]\nport = \"9999\"", "listen.port", &["\"9999\" is not", "whole number"]),
        ("[listen]\nport = 99999999999999999999", "listen.port", &["99999999999999999999 is not", "65535"]),
        ("[listen]\nlisten_addresses = \"*\"", "listen.listen_addresses", &["\"*\" is not", "list of texts"]),
        ("[listen]\nlisten_addresses = [\"a\", 1]", "listen.listen_addresses", &["1 in the list", "list of texts"]),
        ("[shards]\npin = \"on\"", "shards.pin", &["\"on\" is not", "true or false"]),
        ("[shards]\nreceive_buffers = 65", "shards.receive_buffers", &["65 is not", "power of two"]),
        ("[shards]\nreceive_buffer_size = \"1kB\"", "shards.receive_buffer_size", &["\"1kB\"", "4kB to 16MB", "bytes"]),
        ("[shards]\nreceive_buffer_size = \"64kb\"", "shards.receive_buffer_size", &["\"64kb\"", "units B, kB, MB"]),
        (
            "[shards]\nio_driver = \"rign\"",
            "shards.io_driver",
            &["did you mean \"ring\"?", "\"auto\", \"ring\", \"glommio\""],
        ),
        (
            "[replication]\non_divergence = 1",
            "replication.on_divergence",
            &["1 is not", "\"vote\", \"refuse\", \"main\""],
        ),
        ("[replication]\nright_of_way = \"2min\"", "replication.right_of_way", &["\"2min\"", "1ms to 1min", "ms)"]),
        (
            "[limits]\nclient_idle_limit = \"1ms\"",
            "limits.client_idle_limit",
            &["0 (no limit), or a time from 1s to 365d"],
        ),
        ("[limits]\nconnect_timeout = \"10 parsecs\"", "limits.connect_timeout", &["\"10 parsecs\"", "1ms to 1h"]),
        (
            "[authentication]\nclient_auth = \"scram\"",
            "authentication.client_auth",
            &["\"scram\"", "\"scram-sha-256\""],
        ),
        ("[authentication]\nscram_max_iterations = 1", "authentication.scram_max_iterations", &["4096 to 10000000"]),
        ("[apply]\napply_user = \"\"", "apply.apply_user", &["\"\" is not", "1 to 63 bytes"]),
        (
            "[logging]\nlog_min_messages = \"warn\"",
            "logging.log_min_messages",
            &["\"warn\"", "\"warning\"", "\"panic\""],
        ),
        ("[logging]\nlog_min_messages = \"WARNING\"", "logging.log_min_messages", &["did you mean \"warning\"?"]),
    ];
    for (added, key, words) in cases {
        refused(added, 8, key, words);
    }
}

#[test]
fn node_values_are_judged_with_the_nodes_position() {
    for weight in ["-1.0", "nan", "inf", "\"1\""] {
        let added = format!("[[node]]\nid = 1\nbackend_hostname = \"b\"\nbackend_weight = {weight}");
        refused(&added, 10, "node[1].backend_weight", &["not allowed here", "finite number of 0 or more"]);
    }
    refused("[[node]]\nid = 16\nbackend_hostname = \"b\"", 8, "node[1].id", &["16 is not", "from 0 to 15"]);
}

#[test]
fn what_is_required_is_asked_for_by_name() {
    refused("[[node]]\nid = 1", 7, "node[1].backend_hostname", &["required", "a text of 1 to 4095 bytes"]);
    let words = ["required", "\"native_replication\", \"snapshot_isolation\""];
    refused_whole("[cluster]\nname = \"x\"\n", 1, "cluster.backend_clustering_mode", &words);
    let missing = parse("[listen]\nport = 1\n").unwrap_err().to_string();
    assert!(missing.starts_with(&format!("{FILE}: cluster: ")) && missing.contains("native_replication"), "{missing}");
    let missing = parse("[cluster]\nbackend_clustering_mode = \"native_replication\"\n").unwrap_err().to_string();
    assert!(missing.starts_with(&format!("{FILE}: node: ")) && missing.contains("backend_hostname"), "{missing}");
}

#[test]
fn a_table_of_the_wrong_shape_is_told_its_header() {
    refused_whole("listen = 5\n", 1, "listen", &["must be a table [listen]"]);
    refused_whole("[node]\nid = 0\n", 1, "node", &["must be a table [[node]]"]);
    refused_whole("node = [5]\n", 1, "node[0]", &["must be a table [[node]]"]);
    refused_whole(
        "node = []\n[cluster]\nbackend_clustering_mode = \"native_replication\"\n",
        1,
        "node",
        &["0 nodes", "1 to 16"],
    );
}

#[test]
fn node_ids_are_dense_and_unique() {
    let node = |id: u8| format!("[[node]]\nid = {id}\nbackend_hostname = \"b\"\n");
    refused(&node(2), 8, "node[1].id", &["2 leaves a gap", "0 to 1 for 2 nodes"]);
    refused(&node(0), 8, "node[1].id", &["0 is another node's id already", "each id once"]);
    let many: String = (1..=15).chain([15]).map(|id| node(id).replace("\"b\"", &format!("\"b{id}\""))).collect();
    refused(&many, 3, "node", &["17 nodes", "1 to 16"]);
}

#[test]
fn two_nodes_have_two_addresses() {
    refused(
        "[[node]]\nid = 1\nbackend_hostname = \"SERVER1\"",
        9,
        "node[1].backend_hostname",
        &["SERVER1:5432 is node 0's address already"],
    );
}

#[test]
fn some_node_must_take_reads_when_reads_are_balanced() {
    let weightless = SMALL.replace("id = 0\n", "id = 0\nbackend_weight = 0\n");
    refused_whole(&weightless, 5, "node[0].backend_weight", &["0 on every node", "load_balance_mode = false"]);
    assert!(parse(&format!("{weightless}[load_balance]\nload_balance_mode = false\n")).is_ok());
}

#[test]
fn somebody_must_be_able_to_connect() {
    refused("[listen]\nlisten_addresses = []", 8, "listen.listen_addresses", &["nobody could connect"]);
    refused("[listen]\nport = 9898", 7, "listen.pcp_port", &["9898 is listen.port already", "another port"]);
    assert!(parse(&format!("{SMALL}[listen]\nlisten_addresses = []\nunix_socket_directories = [\"/tmp\"]\n")).is_ok());
}

#[test]
fn function_lists_exclude_each_other_and_take_names_only() {
    let both = "[load_balance]\nread_only_function_list = [\"f\"]\nwrite_function_list = [\"g\"]";
    refused(both, 9, "load_balance.write_function_list", &["not together with read_only_function_list"]);
    for name in ["f.*", "f()", "a.b.c", "", "^f$", "1f", "."] {
        let added = format!("[load_balance]\nwrite_function_list = [\"{name}\"]");
        refused(&added, 8, "load_balance.write_function_list", &["allowed: "]);
    }
    assert!(parse(&format!("{SMALL}[load_balance]\nwrite_function_list = [\"f\", \"s.größe_1\"]\n")).is_ok());
}

#[test]
fn what_is_not_built_yet_parses_and_is_refused_by_name() {
    let cases =
        [("[replication]\ncommit_in_procedure = \"drain\"", ":8: replication.commit_in_procedure", "\"refuse\"")];
    for (added, place, instead) in cases {
        let message = parse(&format!("{SMALL}{added}")).unwrap().refuse_unbuilt().unwrap_err().to_string();
        assert!(message.starts_with(&format!("{FILE}{place}: ")), "{message}");
        assert!(message.contains("not built yet") && message.contains(instead), "{message}");
    }
    assert!(parse(SMALL).unwrap().refuse_unbuilt().is_ok());
}

#[test]
fn broken_toml_is_told_with_its_line_and_without_the_password_in_it() {
    for (added, line) in
        [("[listen]\nport = = 1", 8), ("[listen]\nport = 1\nport = 2", 9), ("[apply]\napply_password = \"hun", 8)]
    {
        let message = parse(&format!("{SMALL}{added}")).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{FILE}:{line}: not valid TOML: ")), "{message}");
        assert!(!message.contains("hun"), "{message}");
    }
    for secret in ["[apply]\napply_password = \"\"\"\nhun = ", "apply = { apply_user = \"x\", apply_password = \"hun }"]
    {
        let message = parse(&format!("{secret}\n{SMALL}")).unwrap_err().to_string();
        assert!(message.contains("not valid TOML") && !message.contains("hun"), "{message}");
    }
    let message = parse(&format!("{SMALL}[listen]\nport = 1\nport = 2")).unwrap_err().to_string();
    assert!(message.contains("duplicate key") && message.contains("port = 2"), "{message}");
}

#[test]
fn no_error_shows_a_secret() {
    for value in ["4711", "[\"4711\"]", "\"4711\\u0000\""] {
        let message = parse(&format!("{SMALL}[apply]\napply_password = {value}\n")).unwrap_err().to_string();
        assert!(message.contains("apply.apply_password") && !message.contains("4711"), "{message}");
    }
}

#[test]
fn a_file_that_cannot_be_read_or_is_no_configuration_is_named() {
    let message = load(Path::new("/nonexistent/x.toml")).unwrap_err().to_string();
    assert!(message.starts_with("/nonexistent/x.toml: cannot be read: "), "{message}");
    let message = parse(&"#".repeat(FILE_SIZE_MAX + 1)).unwrap_err().to_string();
    assert!(message.contains("not a configuration"), "{message}");
}

#[test]
fn a_single_node_and_trust_are_warned_about() {
    let config = parse(&format!("{SMALL}[authentication]\nclient_auth = \"trust\"\n")).unwrap();
    let warnings = config.warnings().join("\n");
    assert!(warnings.contains("one node only") && warnings.contains("trust"), "{warnings}");
}

#[test]
fn the_files_in_config_are_in_order() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let modes = [
        ("pglockstep.toml", Mode::NativeReplication),
        ("native_replication.toml", Mode::NativeReplication),
        ("snapshot_isolation.toml", Mode::SnapshotIsolation),
    ];
    for (name, mode) in modes {
        let config = load(&directory.join(name)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((config.cluster.backend_clustering_mode, config.nodes.len()), (mode, 3), "{name}");
    }
}

#[test]
fn what_is_printed_parses_to_the_same_and_has_no_secret() {
    let config = parse(&format!("{SMALL}[apply]\napply_password = \"hunter2\"\n")).unwrap();
    let printed = toml::to_string(&config).unwrap();
    assert!(!printed.contains("hunter2") && printed.contains("***"));
    assert_eq!(toml::to_string(&parse(&printed).unwrap()).unwrap(), printed);
    assert!(!format!("{config:?}").contains("hunter2"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}", key in "[a-z_]{1,20}", value in "\\PC{0,30}") {
        let _ = parse(&text);
        let _ = parse(&format!("{SMALL}[listen]\n{key} = {value}\n"));
        let _ = parse(&format!("{SMALL}[limits]\nconnect_timeout = \"{value}\"\n"));
    }
}
