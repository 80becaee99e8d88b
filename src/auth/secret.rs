//! What a password is checked against ([`Secret`], [`Role`]), and what a login leaves for the nodes ([`Credentials`]).
//!
//! Plain data; touches the arithmetic in `md5.rs` and `scram.rs`. None of it shows a secret in `Debug` output.

use std::fmt;
use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::md5::{canonical_stored_hash, md5_hash_bytes};
use super::scram::{self, SCRAM_SHA_256, ScramVerifier, VerifierError};

/// What the proxy knows of a user's password.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The password itself (pool_passwd only; PostgreSQL stores none since version 10).
    Plain(String),
    /// `md5` and 32 hexadecimal digits: the md5 of password and user name.
    Md5(String),
    /// A SCRAM-SHA-256 verifier.
    Scram(ScramVerifier),
    /// No password: every password is wrong.
    None,
}

/// Why a text from pg_authid is no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error(transparent)]
    Verifier(#[from] VerifierError),
    #[error("neither an md5 hash nor a SCRAM-SHA-256 verifier")]
    UnknownForm,
}

/// A role as main's pg_authid has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// From `rolpassword`, or from pool_passwd.
    pub secret: Secret,
    /// `rolcanlogin`.
    pub can_login: bool,
    /// `rolvaliduntil` is in the past. It bars passwords only, as in PostgreSQL: a trusted client may pass.
    pub valid_until_passed: bool,
}

/// What the proxy can log in to nodes with. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing: fits nodes that trust the proxy.
    None,
    /// The password: fits every method.
    Plain(Arc<str>),
    /// The stored md5 hash: fits md5 nodes that store the same one.
    Md5(Arc<str>),
    /// The keys of a SCRAM verifier: fit SCRAM nodes that store the same one.
    Scram { client_key: [u8; 32], server_key: [u8; 32] },
}

/// Outcome of comparing a plain password with a [`Secret`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlainCheck {
    Same,
    Different,
    /// The verifier demands more rounds than the proxy computes for a client.
    TooManyIterations,
}

impl Secret {
    /// Reads `pg_authid.rolpassword`; SQL's NULL is to be passed as the empty text.
    pub fn parse_shadow(rolpassword: &str) -> Result<Secret, SecretError> {
        if rolpassword.is_empty() {
            return Ok(Secret::None);
        }
        if let Some(hash) = canonical_stored_hash(rolpassword) {
            return Ok(Secret::Md5(hash));
        }
        if rolpassword.starts_with(SCRAM_SHA_256) {
            return Ok(Secret::Scram(ScramVerifier::parse(rolpassword)?));
        }
        Err(SecretError::UnknownForm)
    }

    /// Whether a password that a client sent in clear is the right one. Time does not depend on where it differs.
    pub(super) fn check_plain(&self, user: &str, password: &[u8], max_iterations: u32) -> PlainCheck {
        let same = match self {
            // Hashes are compared, so that not even the length shows.
            Secret::Plain(right) => scram::sha256(right.as_bytes()).ct_eq(&scram::sha256(password)).into(),
            Secret::Md5(right) => right.as_bytes().ct_eq(md5_hash_bytes(password, user).as_bytes()).into(),
            Secret::Scram(verifier) => match verifier.matches_plain(password, max_iterations) {
                Some(same) => same,
                None => return PlainCheck::TooManyIterations,
            },
            Secret::None => false,
        };
        if same { PlainCheck::Same } else { PlainCheck::Different }
    }

    /// What can be used towards nodes without the client having said anything.
    pub(super) fn credentials(&self) -> Credentials {
        match self {
            Secret::Plain(password) => Credentials::Plain(password.as_str().into()),
            Secret::Md5(hash) => Credentials::Md5(hash.as_str().into()),
            Secret::Scram(_) | Secret::None => Credentials::None, // a verifier does not log in
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Secret::Plain(_) => "Plain(..)",
            Secret::Md5(_) => "Md5(..)",
            Secret::Scram(_) => "Scram(..)",
            Secret::None => "None",
        })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credentials::None => "None",
            Credentials::Plain(_) => "Plain(..)",
            Credentials::Md5(_) => "Md5(..)",
            Credentials::Scram { .. } => "Scram(..)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::md5_hash;
    use super::*;

    #[test]
    fn what_pg_authid_holds_is_told_apart() {
        let verifier = ScramVerifier::from_password("pw", b"salt", 2);
        assert_eq!(Secret::parse_shadow(""), Ok(Secret::None));
        assert_eq!(Secret::parse_shadow(&verifier.to_shadow()), Ok(Secret::Scram(verifier)));
        assert_eq!(Secret::parse_shadow(&md5_hash("pw", "me")), Ok(Secret::Md5(md5_hash("pw", "me"))));
        assert_eq!(Secret::parse_shadow("md5tooshort"), Err(SecretError::UnknownForm));
        assert!(matches!(Secret::parse_shadow("SCRAM-SHA-256$broken"), Err(SecretError::Verifier(_))));
    }

    #[test]
    fn a_plain_password_is_checked_against_every_kind_of_secret() {
        let right = [
            Secret::Plain("pw".into()),
            Secret::Md5(md5_hash("pw", "me")),
            Secret::Scram(ScramVerifier::from_password("pw", b"salt", 2)),
        ];
        for secret in right {
            assert_eq!(secret.check_plain("me", b"pw", 9), PlainCheck::Same, "{secret:?}");
            assert_eq!(secret.check_plain("me", b"pW", 9), PlainCheck::Different, "{secret:?}");
        }
        assert_eq!(Secret::None.check_plain("me", b"", 9), PlainCheck::Different);
        let mock = Secret::Scram(ScramVerifier::mock("me", b"s"));
        assert_eq!(mock.check_plain("me", b"pw", 4096), PlainCheck::Different);
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let role = Role { secret: Secret::Plain("hunter2".into()), can_login: true, valid_until_passed: false };
        let keys = Credentials::Scram { client_key: [77; 32], server_key: [77; 32] };
        let shown = format!("{role:?} {:?} {keys:?}", Credentials::Plain("hunter2".into()));
        assert!(!shown.contains("hunter2") && !shown.contains("77"), "{shown}");
    }
}
