//! SCRAM-SHA-256 verifiers for `setup`: one per role, the same on every node.

use crate::auth::{DEFAULT_ITERATIONS, ScramVerifier};
use std::error::Error;

/// More iterations than this are not computed, so that a stored verifier cannot keep `setup` busy.
const MAX_ITERATIONS: u32 = 1_000_000;
/// Bytes of salt, as PostgreSQL takes.
const SALT_LENGTH: usize = 16;

/// A verifier for `password` with a new random salt.
pub(super) fn make(password: &str) -> Result<String, Box<dyn Error + Send + Sync>> {
    let mut salt = [0; SALT_LENGTH];
    getrandom::fill(&mut salt).map_err(|e| format!("no random numbers: {e}"))?;
    Ok(ScramVerifier::from_password(password, &salt, DEFAULT_ITERATIONS).to_shadow())
}

/// Whether `stored` is a SCRAM verifier of `password`. Both are ours, so this need not be constant in time.
pub(super) fn fits(stored: &str, password: &str) -> bool {
    ScramVerifier::parse(stored).is_ok_and(|v| {
        v.iterations <= MAX_ITERATIONS
            && ScramVerifier::from_password(password, &v.salt, v.iterations).to_shadow() == stored
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_fits_its_own_password_only_and_garbage_fits_none() {
        let verifier = make("secret").unwrap();
        assert!(fits(&verifier, "secret"));
        assert!(!fits(&verifier, "Secret"));
        for garbage in ["", "md5abc", "SCRAM-SHA-256$", "SCRAM-SHA-256$0:AAAA$x:y", "SCRAM-SHA-256$999999999:AAAA$x:y"]
        {
            assert!(!fits(garbage, "secret"), "{garbage}");
        }
    }
}
