//! `pglockstep check`: reads a configuration as `run` would, prints what it comes to without secrets, and gives a
//! verdict in one line. Touches the file system to look, and never writes; opens no connection but to itself (io_uring
//! is tried out).

use crate::config::{self, Config, ConfigError, reference};
use crate::shard::choice::choose;
use serde::Serialize;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What `check` is to do.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  pglockstep check -c pglockstep.toml\n  pglockstep check -c pglockstep.toml --json\n  \
                        pglockstep check --reference > reference.md\n\n\
                        Exit status: 0 the file is in order, 2 it is not."
)]
pub struct Args {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", required_unless_present_any = ["reference", "default_file"])]
    pub config: Option<PathBuf>,
    /// Print the verdict, warnings and effective configuration as one JSON object
    #[arg(long, conflicts_with_all = ["reference", "default_file"])]
    pub json: bool,
    /// Print the reference of all keys in Markdown, and check nothing
    #[arg(long)]
    pub reference: bool,
    /// Print the documented default file (config/pglockstep.toml), and check nothing
    #[arg(long, hide = true, conflicts_with = "reference")]
    pub default_file: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    InOrder,
    Refused,
}

/// Everything that `check` found out about one file. Exactly this is what `--json` prints.
#[derive(Serialize)]
struct Findings {
    file: PathBuf,
    /// "ok" or "error".
    verdict: &'static str,
    errors: Vec<Problem>,
    warnings: Vec<String>,
    /// What `run` would choose on this host; a refusal is among the warnings, as the file may be another host's.
    io_driver: Option<IoDriver>,
    /// None: the file could not be read as a configuration.
    config: Option<Config>,
}

#[derive(Serialize)]
struct IoDriver {
    /// "ring" or "glommio".
    driver: &'static str,
    /// The driver, what was found, and why not a better one.
    reason: String,
}

#[derive(Serialize)]
struct Problem {
    line: Option<usize>,
    key: Option<String>,
    problem: String,
    /// The sentence for a person.
    message: String,
}

impl From<ConfigError> for Problem {
    fn from(error: ConfigError) -> Self {
        let message = error.to_string();
        Problem { line: error.line, key: error.key, problem: error.problem, message }
    }
}

/// Runs the command. The configuration goes to `out`; words about it go to `err`, so that `out` can be kept as a file.
pub fn run(args: &Args, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<Verdict> {
    let Some(path) = args.config.as_deref().filter(|_| !args.reference && !args.default_file) else {
        out.write_all(if args.reference { reference::markdown() } else { reference::default_file() }.as_bytes())?;
        return Ok(Verdict::InOrder);
    };
    let findings = examine(path);
    if args.json {
        json(&findings, out)?
    } else {
        text(&findings, out, err)?
    }
    Ok(if findings.errors.is_empty() { Verdict::InOrder } else { Verdict::Refused })
}

fn examine(path: &Path) -> Findings {
    let mut findings = Findings {
        file: path.to_path_buf(),
        verdict: "ok",
        errors: Vec::new(),
        warnings: Vec::new(),
        io_driver: None,
        config: None,
    };
    match config::load(path) {
        Ok(config) => {
            findings.warnings = config.warnings();
            findings.warnings.extend(config.refuse_unbuilt().err().map(|error| format!("`run` refuses this: {error}")));
            findings.warnings.extend(looks(&config, path));
            match choose(config.shards.io_driver) {
                Ok(choice) => {
                    findings.io_driver = Some(IoDriver { driver: choice.driver.name(), reason: choice.to_string() });
                }
                Err(error) => findings.warnings.push(format!("shards.io_driver: on this host `run` refuses: {error}.")),
            }
            findings.errors.extend(pool_passwd(&config).err().map(Problem::from));
            findings.config = Some(config);
        }
        Err(error) => findings.errors.push(error.into()),
    }
    if !findings.errors.is_empty() {
        findings.verdict = "error";
    }
    findings
}

/// A pool_passwd that is configured must be a file that can be read.
fn pool_passwd(config: &Config) -> Result<(), ConfigError> {
    let path = &config.authentication.pool_passwd;
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    let refuse = |problem| {
        let problem = format!("{}: {problem}; allowed: a file that the proxy can read, or \"\"", path.display());
        Err(config.source.error("authentication.pool_passwd", problem))
    };
    match File::open(path).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => refuse("not a file".to_string()),
        Err(error) => refuse(error.to_string()),
    }
}

/// What a look at the file system gives to think about: who else can read secrets, directories that are not there.
fn looks(config: &Config, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    let secrets = [
        &config.apply.apply_password,
        &config.authentication.auth_password,
        &config.health_check.health_check_password,
    ];
    if secrets.iter().any(|secret| !secret.is_empty()) {
        warnings.extend(open_to_others(path));
    }
    if !config.authentication.pool_passwd.as_os_str().is_empty() {
        warnings.extend(open_to_others(&config.authentication.pool_passwd));
    }
    let work_dir = ("cluster.work_dir", &config.cluster.work_dir);
    let sockets = config.listen.unix_socket_directories.iter().map(|path| ("listen.unix_socket_directories", path));
    for (key, directory) in std::iter::once(work_dir).chain(sockets) {
        if !directory.is_dir() {
            warnings.push(format!("{key}: {} is not a directory on this host.", directory.display()));
        }
    }
    warnings
}

fn open_to_others(path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o007 != 0).then(|| format!("{} holds secrets and is open to everyone (mode {mode:03o}).", path.display()))
}

fn json(findings: &Findings, out: &mut dyn Write) -> io::Result<()> {
    let text = serde_json::to_string_pretty(findings).map_err(io::Error::other)?;
    writeln!(out, "{text}")
}

fn text(findings: &Findings, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
    if let Some(config) = &findings.config {
        write!(out, "{}", toml::to_string(config).map_err(io::Error::other)?)?;
        out.flush()?;
    }
    if let Some(io_driver) = &findings.io_driver {
        writeln!(err, "io_driver on this host: {}", io_driver.reason)?;
    }
    for warning in &findings.warnings {
        writeln!(err, "warning: {warning}")?;
    }
    for error in &findings.errors {
        writeln!(err, "error: {}", error.message)?;
    }
    match &findings.config {
        Some(config) if findings.errors.is_empty() => writeln!(
            err,
            "{}: in order, {} nodes, {} warnings",
            findings.file.display(),
            config.nodes.len(),
            findings.warnings.len()
        ),
        _ => writeln!(err, "{}: not in order", findings.file.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "[cluster]\nbackend_clustering_mode = \"native_replication\"\nwork_dir = \"/\"\n\
        [apply]\napply_password = \"hunter2\"\n[[node]]\nid = 0\nbackend_hostname = \"a\"\n\
        [[node]]\nid = 1\nbackend_hostname = \"b\"\n";

    /// Verdict, standard output and standard error for a file of this text.
    fn check(text: &str, json: bool, mode: u32) -> (Verdict, String, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.toml");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        run_with(Args { config: Some(path), json, reference: false, default_file: false })
    }

    fn run_with(args: Args) -> (Verdict, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let verdict = run(&args, &mut out, &mut err).unwrap();
        (verdict, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn a_file_in_order_is_printed_whole_without_its_secrets() {
        let (verdict, out, err) = check(SMALL, false, 0o600);
        assert_eq!(verdict, Verdict::InOrder);
        assert!(out.contains("apply_password = \"***\"") && out.contains("port = 9999"), "{out}");
        assert!(err.ends_with("x.toml: in order, 2 nodes, 0 warnings\n"), "{err}");
        assert!(!out.contains("hunter2") && !err.contains("hunter2"));
    }

    #[test]
    fn json_has_verdict_and_configuration_or_the_error_with_its_line() {
        let (verdict, out, _) = check(SMALL, true, 0o600);
        let found: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((verdict, &found["verdict"]), (Verdict::InOrder, &"ok".into()));
        assert_eq!(found["config"]["node"][1]["backend_hostname"], "b");
        assert_eq!(found["config"]["apply"]["apply_password"], "***");

        let (verdict, out, _) = check(&SMALL.replace("work_dir", "wrok_dir"), true, 0o600);
        let found: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((verdict, &found["verdict"]), (Verdict::Refused, &"error".into()));
        assert_eq!((&found["errors"][0]["line"], &found["errors"][0]["key"]), (&3.into(), &"cluster.wrok_dir".into()));
        assert!(found["config"].is_null());
    }

    #[test]
    fn a_pool_passwd_that_is_not_there_is_an_error_with_its_line() {
        let (verdict, _, err) = check(&format!("[authentication]\npool_passwd = \"none\"\n{SMALL}"), false, 0o600);
        assert_eq!(verdict, Verdict::Refused);
        assert!(err.contains("x.toml:2: authentication.pool_passwd: ") && err.contains("/none: "), "{err}");
    }

    #[test]
    fn secrets_that_everyone_can_read_are_warned_about() {
        let (verdict, _, err) = check(SMALL, false, 0o644);
        assert_eq!(verdict, Verdict::InOrder);
        assert!(err.contains("holds secrets and is open to everyone (mode 644)"), "{err}");
    }

    #[test]
    fn what_run_would_refuse_is_a_warning_here() {
        let (verdict, _, err) =
            check(&format!("[replication]\ncommit_in_procedure = \"drain\"\n{SMALL}"), false, 0o600);
        assert_eq!(verdict, Verdict::InOrder);
        assert!(err.contains("`run` refuses this") && err.contains("drain"), "{err}");
    }

    #[test]
    fn the_reference_and_the_default_file_need_no_configuration() {
        let args = Args { config: None, json: false, reference: true, default_file: false };
        assert!(run_with(args.clone()).1.starts_with("# Configuration reference"));
        assert!(
            run_with(Args { reference: false, default_file: true, ..args }).1.contains("backend_clustering_mode = ")
        );
    }

    #[test]
    fn the_driver_that_run_would_choose_here_is_named_with_the_reason() {
        let (_, _, err) = check(SMALL, false, 0o600);
        assert!(err.contains("io_driver on this host: ring (io_uring on kernel "), "{err}");
        let (_, out, _) = check(&format!("[shards]\nio_driver = \"glommio\"\n{SMALL}"), true, 0o600);
        let found: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(found["io_driver"]["driver"], "glommio");
        assert!(found["io_driver"]["reason"].as_str().unwrap().starts_with("glommio (io_uring on kernel "));
    }
}
