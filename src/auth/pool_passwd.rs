//! The file `pool_passwd`: passwords by user, for those whom pg_authid does not serve.
//!
//! Text in, secrets out; touches no file. The form is Pgpool-II's (src/auth/pool_passwd.c there): one entry
//! `user:password` per line, a backslash makes the next character an ordinary one, no comments, nothing trimmed, the
//! first entry of a user counts. Beyond Pgpool-II a SCRAM-SHA-256 verifier may stand as the password. What we cannot
//! use (AES, a second pair of names) is refused by name, never taken for a plain password.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use super::md5::canonical_stored_hash;
use super::scram::{SCRAM_SHA_256, ScramVerifier, VerifierError};
use super::secret::Secret;

/// Longest line, bytes, without its newline.
pub const MAX_POOL_PASSWD_LINE_LEN: usize = 1023;
/// Longest user name and longest password (but for verifiers), bytes, after unescaping.
pub const MAX_POOL_PASSWD_TOKEN_LEN: usize = 128;
/// Most entries of a file. All are kept in memory: some tens of megabytes at worst.
const MAX_ENTRIES: usize = 100_000;

/// The entries of a file.
#[derive(Clone, Default)]
pub struct PoolPasswd {
    entries: HashMap<String, Result<Secret, PoolPasswdError>>,
}

/// What is wrong, and in which line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct PoolPasswdError {
    /// Counted from 1.
    pub line: usize,
    pub problem: PoolPasswdProblem,
}

/// What is wrong with a line. Never tells the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolPasswdProblem {
    #[error("longer than {MAX_POOL_PASSWD_LINE_LEN} bytes")]
    LineTooLong,
    #[error("no colon between user name and password")]
    NoColon,
    #[error("the user name is empty")]
    NoUser,
    #[error("the user name is longer than {MAX_POOL_PASSWD_TOKEN_LEN} bytes")]
    UserTooLong,
    #[error("more than {MAX_ENTRIES} entries")]
    TooManyEntries,
    #[error("it ends with a carriage return, which would be part of the password; save the file with Unix line ends")]
    CarriageReturn,
    #[error("the password of user \"{user}\" is longer than {MAX_POOL_PASSWD_TOKEN_LEN} bytes")]
    PasswordTooLong { user: String },
    #[error(
        "the password of user \"{user}\" is encrypted with AES, which is not supported; \
         replace it with TEXT and the password, or with the SCRAM-SHA-256 verifier from pg_authid \
         (a plain password that begins with AES must be written with TEXT in front)"
    )]
    Aes { user: String },
    #[error(
        "the entry of user \"{user}\" has more than two fields; a mapping to another user of the nodes is not \
         supported, and a colon within a password must be written \\:"
    )]
    TooManyFields { user: String },
    #[error("the entry of user \"{user}\" is {error}")]
    Verifier { user: String, error: VerifierError },
}

impl PoolPasswdProblem {
    /// The user whose entry it is, if that much could be read.
    pub fn user(&self) -> Option<&str> {
        use PoolPasswdProblem::*;
        match self {
            LineTooLong | NoColon | NoUser | UserTooLong | TooManyEntries | CarriageReturn => None,
            PasswordTooLong { user } | Aes { user } | TooManyFields { user } | Verifier { user, .. } => Some(user),
        }
    }
}

impl PoolPasswd {
    /// Reads a file's text. A line that belongs to no user makes the file unusable; an entry that cannot be used
    /// waits for its user to ask ([`PoolPasswd::lookup`]), and for [`PoolPasswd::problems`]. Empty lines are skipped.
    pub fn parse(text: &str) -> Result<PoolPasswd, PoolPasswdError> {
        let mut entries = HashMap::new();
        for (index, line) in text.split('\n').enumerate().filter(|(_, line)| !line.is_empty()) {
            let at = |problem| PoolPasswdError { line: index + 1, problem };
            let (user, secret) = match parse_pool_passwd_line(line) {
                Ok((user, secret)) => (user, Ok(secret)),
                Err(problem) => match problem.user() {
                    Some(user) => (user.to_owned(), Err(at(problem))),
                    None => return Err(at(problem)),
                },
            };
            if entries.len() == MAX_ENTRIES {
                return Err(at(PoolPasswdProblem::TooManyEntries));
            }
            if let Entry::Vacant(vacant) = entries.entry(user) {
                vacant.insert(secret);
            }
        }
        Ok(PoolPasswd { entries })
    }

    /// The user's secret; `Ok(None)` without an entry; an error that names the user if the entry cannot be used.
    pub fn lookup(&self, user: &str) -> Result<Option<&Secret>, &PoolPasswdError> {
        self.entries.get(user).map(Result::as_ref).transpose()
    }

    /// The entries that cannot be used, by line: worth a warning when the file is loaded.
    pub fn problems(&self) -> Vec<&PoolPasswdError> {
        let mut problems: Vec<_> = self.entries.values().filter_map(|entry| entry.as_ref().err()).collect();
        problems.sort_by_key(|problem| problem.line);
        problems
    }

    /// Number of users with an entry, usable or not.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl fmt::Debug for PoolPasswd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolPasswd({} entries)", self.entries.len())
    }
}

/// Reads one line, without its newline.
pub fn parse_pool_passwd_line(line: &str) -> Result<(String, Secret), PoolPasswdProblem> {
    if line.len() > MAX_POOL_PASSWD_LINE_LEN {
        return Err(PoolPasswdProblem::LineTooLong);
    }
    if line.ends_with('\r') {
        return Err(PoolPasswdProblem::CarriageReturn);
    }
    let (user, rest) = next_field(line);
    let Some(rest) = rest else { return Err(PoolPasswdProblem::NoColon) };
    if user.is_empty() {
        return Err(PoolPasswdProblem::NoUser);
    }
    if user.len() > MAX_POOL_PASSWD_TOKEN_LEN {
        return Err(PoolPasswdProblem::UserTooLong);
    }
    if is_verifier(rest) {
        // A verifier holds one colon, and nothing else that needs a backslash. It is taken as pg_authid shows it, too.
        let text = rest.replace("\\:", ":");
        return match ScramVerifier::parse(&text) {
            Ok(verifier) => Ok((user, Secret::Scram(verifier))),
            Err(error) => Err(PoolPasswdProblem::Verifier { user, error }),
        };
    }
    let (password, further) = next_field(rest);
    if further.is_some() {
        return Err(PoolPasswdProblem::TooManyFields { user });
    }
    secret_of(user, password)
}

fn is_verifier(text: &str) -> bool {
    text.strip_prefix(SCRAM_SHA_256).is_some_and(|rest| rest.starts_with('$'))
}

/// The kind of a password shows in how it begins; the order of the tests is Pgpool-II's.
fn secret_of(user: String, password: String) -> Result<(String, Secret), PoolPasswdProblem> {
    if password.len() > MAX_POOL_PASSWD_TOKEN_LEN {
        return Err(PoolPasswdProblem::PasswordTooLong { user });
    }
    if let Some(hash) = canonical_stored_hash(&password) {
        return Ok((user, Secret::Md5(hash)));
    }
    if password.starts_with("AES") {
        return Err(PoolPasswdProblem::Aes { user });
    }
    let plain = password.strip_prefix("TEXT").unwrap_or(&password);
    let secret = if plain.is_empty() { Secret::None } else { Secret::Plain(plain.to_owned()) };
    Ok((user, secret))
}

/// The text up to the next colon that stands without a backslash, unescaped; and what follows it, if there is one.
fn next_field(text: &str) -> (String, Option<&str>) {
    let mut field = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            ':' => return (field, Some(&text[at + 1..])),
            '\\' => field.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => field.push(c),
        }
    }
    (field, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(user: &str, password: &str) -> Result<(String, Secret), PoolPasswdProblem> {
        Ok((user.into(), Secret::Plain(password.into())))
    }

    #[test]
    fn the_kind_of_a_password_shows_in_its_prefix() {
        let hash = "md5e5c7045b5cf578feb27a8aa6ffc0fcc6";
        assert_eq!(parse_pool_passwd_line(&format!("u:{hash}")), Ok(("u".into(), Secret::Md5(hash.into()))));
        assert_eq!(parse_pool_passwd_line("u:md5"), plain("u", "md5"));
        assert_eq!(parse_pool_passwd_line("u:TEXTpw"), plain("u", "pw"));
        assert_eq!(parse_pool_passwd_line("u:TEXTAESpw"), plain("u", "AESpw"));
        assert_eq!(parse_pool_passwd_line(&format!("u:TEXT{hash}")), plain("u", hash));
        assert_eq!(parse_pool_passwd_line("u: pw "), plain("u", " pw "));
        assert_eq!(parse_pool_passwd_line("u:"), Ok(("u".into(), Secret::None)));
        assert_eq!(parse_pool_passwd_line("u:TEXT"), Ok(("u".into(), Secret::None)));
    }

    #[test]
    fn a_backslash_makes_colons_and_backslashes_ordinary() {
        assert_eq!(parse_pool_passwd_line(r"a\:b:c\:d\\e"), plain("a:b", r"c:d\e"));
        assert_eq!(parse_pool_passwd_line(r"u:pw\"), plain("u", "pw"));
    }

    #[test]
    fn a_verifier_is_taken_with_and_without_a_backslash() {
        let verifier = ScramVerifier::from_password("pw", b"salt", 2);
        let text = verifier.to_shadow();
        for written in [text.clone(), text.replace(':', "\\:")] {
            let secret = Secret::Scram(verifier.clone());
            assert_eq!(parse_pool_passwd_line(&format!("u:{written}")), Ok(("u".into(), secret)));
        }
        let problem = parse_pool_passwd_line("u:SCRAM-SHA-256$4096:x").unwrap_err();
        assert!(matches!(problem, PoolPasswdProblem::Verifier { .. }));
    }

    #[test]
    fn an_aes_entry_is_refused_with_the_name_of_its_user_and_spares_the_others() {
        let file = PoolPasswd::parse("old:AESV7IMV7YNworqqZU1Z46Wgw==\nnew:pw\n").unwrap();
        assert_eq!(file.lookup("new"), Ok(Some(&Secret::Plain("pw".into()))));
        assert_eq!(file.lookup("nobody"), Ok(None));
        let error = file.lookup("old").unwrap_err();
        assert_eq!((error.line, error.problem.user()), (1, Some("old")));
        assert!(error.to_string().contains("AES") && !error.to_string().contains("V7IM"), "{error}");
        assert_eq!(file.problems(), [error]);
    }

    #[test]
    fn the_first_entry_of_a_user_counts() {
        let file = PoolPasswd::parse("u:one\n\nu:two\nu:AESx").unwrap();
        assert_eq!(file.lookup("u"), Ok(Some(&Secret::Plain("one".into()))));
        assert!(file.problems().is_empty());
        assert_eq!(file.len(), 1);
    }

    #[test]
    fn limits_and_broken_lines_are_named_with_their_line() {
        let long = "x".repeat(MAX_POOL_PASSWD_TOKEN_LEN + 1);
        let problem = |line: &str| PoolPasswd::parse(&format!("ok:pw\n{line}")).unwrap_err();
        assert_eq!(problem("nocolon"), PoolPasswdError { line: 2, problem: PoolPasswdProblem::NoColon });
        assert_eq!(problem(":pw").problem, PoolPasswdProblem::NoUser);
        assert_eq!(problem("u:pw\r").problem, PoolPasswdProblem::CarriageReturn);
        assert_eq!(problem(&format!("{long}:pw")).problem, PoolPasswdProblem::UserTooLong);
        assert_eq!(problem(&format!("u:{}", "x".repeat(1022))).problem, PoolPasswdProblem::LineTooLong);
        assert!(matches!(
            parse_pool_passwd_line(&format!("u:{long}")),
            Err(PoolPasswdProblem::PasswordTooLong { user }) if user == "u"
        ));
        assert!(matches!(parse_pool_passwd_line("u:p:v:w"), Err(PoolPasswdProblem::TooManyFields { .. })));
        assert!(parse_pool_passwd_line(&format!("{0}:{0}", &long[1..])).is_ok());
    }
}
