//! PostgreSQL's md5 method: what is stored, and what is answered to a salt.
//!
//! Pure arithmetic; touches nothing. Source: PostgreSQL's protocol chapter "Message Flow", AuthenticationMD5Password,
//! and src/common/md5_common.c.

use std::fmt::Write;

use md5::{Digest, Md5};

/// What both the stored and the sent form begin with.
const PREFIX: &str = "md5";
/// Hexadecimal digits after the prefix.
const HEX_LEN: usize = 32;

/// The stored form: `md5` and the hexadecimal md5 of password and user name, the user name being the salt.
pub fn md5_hash(password: &str, user: &str) -> String {
    md5_hash_bytes(password.as_bytes(), user)
}

/// [`md5_hash`] of a password that came over the wire, in whatever encoding the client uses.
pub(super) fn md5_hash_bytes(password: &[u8], user: &str) -> String {
    prefixed_hex(&[password, user.as_bytes()])
}

/// The answer to AuthenticationMD5Password: `md5` and the hexadecimal md5 of the stored hash's digits and the salt.
/// The stored hash is taken with or without its prefix.
pub fn md5_response(stored_hash: &str, salt: [u8; 4]) -> String {
    let digits = stored_hash.strip_prefix(PREFIX).unwrap_or(stored_hash);
    prefixed_hex(&[digits.as_bytes(), &salt])
}

/// The stored form in canonical (lower) case if the text is one: `md5` and exactly 32 hexadecimal digits.
pub(super) fn canonical_stored_hash(text: &str) -> Option<String> {
    let digits = text.strip_prefix(PREFIX)?;
    let is_hash = digits.len() == HEX_LEN && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_hash.then(|| text.to_ascii_lowercase())
}

fn prefixed_hex(parts: &[&[u8]]) -> String {
    let mut hasher = Md5::new();
    for part in parts {
        hasher.update(part);
    }
    let mut out = String::with_capacity(PREFIX.len() + HEX_LEN);
    out.push_str(PREFIX);
    for byte in hasher.finalize() {
        let _ = write!(out, "{byte:02x}"); // writing to a String cannot fail
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_is_the_one_that_pgpool_writes() {
        assert_eq!(md5_hash("secret", "pgpool"), "md5e5c7045b5cf578feb27a8aa6ffc0fcc6");
    }

    #[test]
    fn a_response_hashes_the_stored_digits_with_the_salt() {
        let stored = md5_hash("secret", "pgpool");
        let expected = prefixed_hex(&[b"e5c7045b5cf578feb27a8aa6ffc0fcc6", &[1, 2, 3, 4]]);
        assert_eq!(md5_response(&stored, [1, 2, 3, 4]), expected);
        assert_eq!(md5_response(&stored[3..], [1, 2, 3, 4]), expected);
    }

    #[test]
    fn only_md5_with_32_hexadecimal_digits_is_a_stored_hash() {
        let upper = "md5E5C7045B5CF578FEB27A8AA6FFC0FCC6";
        assert_eq!(canonical_stored_hash(upper).as_deref(), Some("md5e5c7045b5cf578feb27a8aa6ffc0fcc6"));
        assert_eq!(canonical_stored_hash("md5e5c7045b5cf578feb27a8aa6ffc0fcc"), None);
        assert_eq!(canonical_stored_hash("md5e5c7045b5cf578feb27a8aa6ffc0fcc6a"), None);
        assert_eq!(canonical_stored_hash("md5g5c7045b5cf578feb27a8aa6ffc0fcc6"), None);
    }
}
