//! SCRAM-SHA-256 verifiers as pg_authid stores them (RFC 5802 section 3, RFC 7677; PostgreSQL's
//! src/common/scram-common.c): `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, the three in base64.
//!
//! Pure computation, for `setup` alone; logins are `auth`'s.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::error::Error;

/// PostgreSQL's default (`scram_iterations`).
const ITERATIONS: u32 = 4096;
/// More iterations than this are not computed, so that a stored verifier cannot keep `setup` busy.
const MAX_ITERATIONS: u32 = 1_000_000;
/// Bytes of salt, as PostgreSQL takes.
const SALT_LENGTH: usize = 16;

/// A verifier for `password` with a new random salt.
pub(super) fn make(password: &str) -> Result<String, Box<dyn Error + Send + Sync>> {
    let mut salt = [0; SALT_LENGTH];
    getrandom::fill(&mut salt).map_err(|e| format!("no random numbers: {e}"))?;
    Ok(build(password, &salt, ITERATIONS))
}

/// Whether `stored` is a SCRAM verifier of `password`. Both are ours, so this need not be constant in time.
pub(super) fn fits(stored: &str, password: &str) -> bool {
    let parts = || {
        let (iterations, rest) = stored.strip_prefix("SCRAM-SHA-256$")?.split_once(':')?;
        let (salt, _keys) = rest.split_once('$')?;
        Some((iterations.parse::<u32>().ok()?, BASE64.decode(salt).ok()?))
    };
    parts().is_some_and(|(iterations, salt)| {
        (1..=MAX_ITERATIONS).contains(&iterations) && build(password, &salt, iterations) == stored
    })
}

fn build(password: &str, salt: &[u8], iterations: u32) -> String {
    // PostgreSQL takes the bytes as they are where SASLprep refuses them.
    let prepared = stringprep::saslprep(password).map(|text| text.into_owned()).unwrap_or_else(|_| password.to_owned());
    let salted = salted_password(prepared.as_bytes(), salt, iterations);
    let stored_key = Sha256::digest(mac(&salted, &[b"Client Key"]));
    let server_key = mac(&salted, &[b"Server Key"]);
    let (salt, stored, server) = (BASE64.encode(salt), BASE64.encode(stored_key), BASE64.encode(server_key));
    format!("SCRAM-SHA-256${iterations}:{salt}${stored}:{server}")
}

/// Hi() of RFC 5802: PBKDF2 with HMAC-SHA-256 and one block of output.
fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> [u8; 32] {
    let mut block = mac(password, &[salt, &1u32.to_be_bytes()]);
    let mut result = block;
    for _ in 1..iterations {
        block = mac(password, &[&block]);
        result.iter_mut().zip(block).for_each(|(sum, byte)| *sum ^= byte);
    }
    result
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length (RFC 2104)");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_7677_gives_its_keys() {
        // Section 3: user "user", password "pencil", salt W22ZaJ0SNY7soEsUEjb6gQ==, i=4096. The server signature there
        // is HMAC(ServerKey, AuthMessage), which checks the second key.
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = build("pencil", &salt, 4096);
        let server_key = BASE64.decode(verifier.rsplit_once(':').unwrap().1).unwrap();
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let message =
            format!("n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}");
        let signature = BASE64.encode(mac(&server_key, &[message.as_bytes()]));
        assert_eq!(signature, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

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
