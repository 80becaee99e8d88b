//! SCRAM-SHA-256 (RFC 5802, RFC 7677): the verifier as PostgreSQL stores it, and the arithmetic both ends share.
//!
//! Pure arithmetic; touches nothing. The exchanges themselves are in `scram_server.rs` and `scram_client.rs`.
//! PostgreSQL's own are src/common/scram-common.c and src/backend/libpq/auth-scram.c.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The mechanism's name, and the prefix of a stored verifier.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// Rounds of PBKDF2 that PostgreSQL uses unless told otherwise (SCRAM_SHA_256_DEFAULT_ITERATIONS).
pub const DEFAULT_ITERATIONS: u32 = 4096;
/// Random bytes in a nonce, before base64 (SCRAM_RAW_NONCE_LEN).
pub const RAW_NONCE_LEN: usize = 18;
/// Most rounds that a plain password is checked with. Any user may store a verifier with two thousand million rounds
/// (ALTER ROLE ... PASSWORD takes a finished verifier); checking it would hold an event loop for hours. This many take
/// some tens of milliseconds. The SCRAM method itself costs the proxy no rounds, so it has no such limit.
pub const MAX_PLAIN_CHECK_ITERATIONS: u32 = 100_000;

/// Bytes of a salt that is made here (SCRAM_DEFAULT_SALT_LEN).
const SALT_LEN: usize = 16;
/// Longest salt that is accepted, bytes: base64 of it still fits a SASL message with two nonces.
const MAX_SALT_LEN: usize = 256;
/// PostgreSQL keeps the count in an int.
const MAX_STORED_ITERATIONS: u32 = i32::MAX as u32;

/// SHA-256's output: the length of every key and proof.
pub(super) type Key = [u8; 32];

/// What a server keeps of a password: enough to check a proof, not enough to make one.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    /// Rounds of PBKDF2; at least 1.
    pub iterations: u32,
    /// Salt of PBKDF2, decoded.
    pub salt: Vec<u8>,
    /// SHA-256 of the ClientKey.
    pub stored_key: [u8; 32],
    /// Key of the server's signature.
    pub server_key: [u8; 32],
}

/// Why a text is no verifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a SCRAM-SHA-256 verifier: {0}")]
pub struct VerifierError(&'static str);

impl ScramVerifier {
    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, the form of `pg_authid.rolpassword`
    /// (parse_scram_secret in auth-scram.c).
    pub fn parse(text: &str) -> Result<ScramVerifier, VerifierError> {
        let rest = text.strip_prefix(SCRAM_SHA_256).and_then(|rest| rest.strip_prefix('$'));
        let rest = rest.ok_or(VerifierError("it does not begin with SCRAM-SHA-256$"))?;
        let shape = VerifierError("it is not of the form iterations:salt$StoredKey:ServerKey");
        let (head, keys) = rest.split_once('$').ok_or(shape.clone())?;
        let (iterations, salt) = head.split_once(':').ok_or(shape.clone())?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(shape)?;

        let iterations = parse_iterations(iterations.as_bytes()).ok_or(VerifierError("bad iteration count"))?;
        let salt = STANDARD.decode(salt).map_err(|_| VerifierError("the salt is not base64"))?;
        if salt.len() > MAX_SALT_LEN {
            return Err(VerifierError("the salt is too long"));
        }
        let stored_key = decode_key(stored_key.as_bytes()).ok_or(VerifierError("bad StoredKey"))?;
        let server_key = decode_key(server_key.as_bytes()).ok_or(VerifierError("bad ServerKey"))?;
        Ok(ScramVerifier { iterations, salt, stored_key, server_key })
    }

    /// The verifier of a password. Costs `iterations` rounds; a count of 0 is taken as 1.
    pub fn from_password(pw: &str, salt: &[u8], iterations: u32) -> ScramVerifier {
        let salted = salted_password(pw.as_bytes(), salt, iterations);
        ScramVerifier {
            iterations: iterations.max(1),
            salt: salt.to_vec(),
            stored_key: sha256(&client_key(&salted)),
            server_key: server_key(&salted),
        }
    }

    /// A verifier that nobody can satisfy, for users that do not exist: PostgreSQL's mock authentication. The salt
    /// depends on the user name and on `secret` alone, so that asking twice tells no more than asking a real user.
    /// `secret` must stay the same for as long as a client may compare.
    pub fn mock(user: &str, secret: &[u8]) -> ScramVerifier {
        ScramVerifier {
            iterations: DEFAULT_ITERATIONS,
            salt: user_salt(user, secret).to_vec(),
            stored_key: [0; 32],
            server_key: [0; 32],
        }
    }

    /// Whether this came from [`ScramVerifier::mock`], or cannot be told from such a one. It never lets anyone in.
    pub fn is_mock(&self) -> bool {
        self.stored_key == [0; 32]
    }

    /// Whether a plain password, in whatever encoding, is the one of this verifier. `None` if that would cost more
    /// than `max_iterations` rounds.
    pub(super) fn matches_plain(&self, password: &[u8], max_iterations: u32) -> Option<bool> {
        if self.iterations > max_iterations {
            return None;
        }
        let salted = salted_password(password, &self.salt, self.iterations);
        let same = sha256(&client_key(&salted)).ct_eq(&self.stored_key);
        Some(bool::from(same) && !self.is_mock())
    }

    /// The form of `pg_authid.rolpassword`. It is a secret of its own: do not log it.
    pub fn to_shadow(&self) -> String {
        let (salt, stored) = (STANDARD.encode(&self.salt), STANDARD.encode(self.stored_key));
        let server = STANDARD.encode(self.server_key);
        format!("{SCRAM_SHA_256}${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramVerifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// Password preparation (RFC 4013) as PostgreSQL does it: what cannot be prepared, because it is not UTF-8, holds
/// prohibited characters or comes out empty, is used as it stands (pg_saslprep and its callers).
pub fn saslprep(password: &[u8]) -> Cow<'_, [u8]> {
    let Ok(text) = std::str::from_utf8(password) else { return Cow::Borrowed(password) };
    match stringprep::saslprep(text) {
        Ok(prepared) if prepared.is_empty() => Cow::Borrowed(password),
        Ok(Cow::Borrowed(prepared)) => Cow::Borrowed(prepared.as_bytes()),
        Ok(Cow::Owned(prepared)) => Cow::Owned(prepared.into_bytes()),
        Err(_) => Cow::Borrowed(password),
    }
}

/// A salt for a user that has none stored: always the same for one user and secret.
pub(super) fn user_salt(user: &str, secret: &[u8]) -> [u8; SALT_LEN] {
    let mut salt = [0; SALT_LEN];
    salt.copy_from_slice(&hmac(secret, &[b"salt of ", user.as_bytes()])[..SALT_LEN]);
    salt
}

/// SaltedPassword of RFC 5802: PBKDF2 with HMAC-SHA-256, one block.
pub(super) fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> Key {
    let keyed = keyed_hmac(&saslprep(password));
    let first = keyed.clone().chain_update(salt).chain_update(1u32.to_be_bytes());
    let mut round: Key = first.finalize().into_bytes().into();
    let mut sum = round;
    for _ in 1..iterations {
        round = keyed.clone().chain_update(round).finalize().into_bytes().into();
        sum = xor(&sum, &round);
    }
    sum
}

pub(super) fn client_key(salted_password: &Key) -> Key {
    hmac(salted_password, &[b"Client Key"])
}

pub(super) fn server_key(salted_password: &Key) -> Key {
    hmac(salted_password, &[b"Server Key"])
}

pub(super) fn sha256(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut mac = keyed_hmac(key);
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

pub(super) fn xor(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// An iteration count: decimal digits only, 1 to PostgreSQL's largest int.
pub(super) fn parse_iterations(digits: &[u8]) -> Option<u32> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None; // parse would take a plus sign
    }
    let count = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (1..=MAX_STORED_ITERATIONS).contains(&count).then_some(count)
}

/// A key, proof or signature in base64; `None` if it is malformed or not 32 bytes long.
pub(super) fn decode_key(base64: &[u8]) -> Option<Key> {
    STANDARD.decode(base64).ok()?.try_into().ok()
}

fn keyed_hmac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

/// The comma-separated `x=value` attributes of a SCRAM message, read from left to right.
pub(super) struct Attributes<'a> {
    message: &'a [u8],
    /// Where the next attribute begins; at most `message.len()`.
    position: usize,
}

/// One attribute of a SCRAM message.
pub(super) struct Attribute<'a> {
    pub name: u8,
    pub value: &'a [u8],
    /// Offset of the name within the message.
    pub start: usize,
}

impl<'a> Attributes<'a> {
    pub fn new(message: &'a [u8]) -> Attributes<'a> {
        Attributes { message, position: 0 }
    }

    /// The next attribute; `Ok(None)` at the end of the message, an error if what follows has not the form `x=value`.
    pub fn next(&mut self) -> Result<Option<Attribute<'a>>, &'static str> {
        let start = self.position;
        let rest = &self.message[start..];
        let [name, rest @ ..] = rest else { return Ok(None) };
        if !name.is_ascii_alphabetic() {
            return Err("Attribute expected, but found an invalid character.");
        }
        let [b'=', rest @ ..] = rest else { return Err("An attribute's name is not followed by an equals sign.") };
        let length = rest.iter().position(|&b| b == b',').unwrap_or(rest.len());
        self.position = (start + 2 + length + 1).min(self.message.len()); // name, equals sign, value, comma
        Ok(Some(Attribute { name: *name, value: &rest[..length], start }))
    }

    /// The value of the next attribute, which must have this name.
    pub fn expect(&mut self, name: u8) -> Result<&'a [u8], &'static str> {
        match self.next()? {
            Some(attribute) if attribute.name == name => Ok(attribute.value),
            Some(_) => Err("A required attribute is missing or not in its place."),
            None => Err("The message ends before a required attribute."),
        }
    }

    pub fn at_end(&self) -> bool {
        self.position == self.message.len()
    }
}

/// RFC 5802's "printable": what a nonce is made of.
pub(super) fn is_printable(text: &[u8]) -> bool {
    text.iter().all(|b| b.is_ascii_graphic() && *b != b',')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_survives_being_written_and_read() {
        let verifier = ScramVerifier::from_password("pencil", b"sixteen bytes...", 7);
        assert_eq!(ScramVerifier::parse(&verifier.to_shadow()), Ok(verifier));
    }

    #[test]
    fn verifiers_made_by_postgresql_match_their_passwords() {
        let ascii = "SCRAM-SHA-256$4096:XmCK4khnXfA2+kxnvlaZ8g==$nEWMQdOhm754CqLnOvUjx0FD2pDDLIrj+QkaIj6dqYo=:\
                     WjIWttL+YTpmxn68AwaxopLFFAKfiGWTwTttQzzIaMc=";
        let unicode = "SCRAM-SHA-256$4096:laBuVtvLBRdwwZI2nTaP7Q==$XkhJPzzssVlZVG4Fd8p2sMAueUVYwfhkuuvDcsbx3cc=:\
                       Dvg0jKUZ0qZI6Ovbf+T6aiIuz6DWP8wXPbXa4jlhI8o=";
        for (text, password) in [(ascii, "pw"), (unicode, "p\u{e4}\u{ad}\u{2168}ss")] {
            let verifier = ScramVerifier::parse(text).unwrap();
            assert_eq!(ScramVerifier::from_password(password, &verifier.salt, 4096), verifier);
            assert_eq!(verifier.to_shadow(), text);
        }
    }

    #[test]
    fn texts_that_are_no_verifiers_are_refused() {
        let key = STANDARD.encode([7u8; 32]);
        let short = STANDARD.encode([7u8; 31]);
        let long_salt = STANDARD.encode([7u8; MAX_SALT_LEN + 1]);
        assert!(ScramVerifier::parse(&format!("SCRAM-SHA-256$1:AAAA${key}:{key}")).is_ok());
        for bad in [
            String::new(),
            "SCRAM-SHA-256".into(),
            "SCRAM-SHA-256$".into(),
            format!("SCRAM-SHA-1$1:AAAA${key}:{key}"),
            format!("SCRAM-SHA-256$0:AAAA${key}:{key}"),
            format!("SCRAM-SHA-256$:AAAA${key}:{key}"),
            format!("SCRAM-SHA-256$+1:AAAA${key}:{key}"),
            format!("SCRAM-SHA-256$2147483648:AAAA${key}:{key}"),
            format!("SCRAM-SHA-256$1:AA!A${key}:{key}"),
            format!("SCRAM-SHA-256$1:{long_salt}${key}:{key}"),
            format!("SCRAM-SHA-256$1:AAAA${short}:{key}"),
            format!("SCRAM-SHA-256$1:AAAA${key}:{short}"),
            format!("SCRAM-SHA-256$1:AAAA${key}"),
            format!("SCRAM-SHA-256$1:AAAA${key}:{key}:"),
        ] {
            assert!(ScramVerifier::parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_plain_password_is_checked_against_a_verifier_within_the_round_limit() {
        let mut verifier = ScramVerifier::from_password("pencil", b"salt", 10);
        assert_eq!(verifier.matches_plain(b"pencil", 10), Some(true));
        assert_eq!(verifier.matches_plain(b"pencils", 10), Some(false));
        verifier.iterations = 11;
        assert_eq!(verifier.matches_plain(b"pencil", 10), None);
    }

    #[test]
    fn a_mock_verifier_has_a_steady_salt_per_user_and_secret() {
        let mock = ScramVerifier::mock("nobody", b"secret");
        assert_eq!(mock, ScramVerifier::mock("nobody", b"secret"));
        assert_ne!(mock.salt, ScramVerifier::mock("somebody", b"secret").salt);
        assert_ne!(mock.salt, ScramVerifier::mock("nobody", b"other").salt);
        assert_eq!(mock.salt.len(), SALT_LEN);
        assert!(mock.is_mock());
    }

    #[test]
    fn preparation_falls_back_to_the_raw_bytes() {
        assert_eq!(&*saslprep("I\u{ad}X".as_bytes()), b"IX"); // soft hyphen maps to nothing
        assert_eq!(&*saslprep("\u{2168}".as_bytes()), b"IX"); // compatibility form
        assert_eq!(&*saslprep(b"bell\x07"), b"bell\x07"); // prohibited
        assert_eq!(&*saslprep(b"latin\xe9"), b"latin\xe9"); // not UTF-8
        assert_eq!(&*saslprep("\u{ad}".as_bytes()), "\u{ad}".as_bytes()); // nothing left
    }

    #[test]
    fn debug_output_shows_no_key() {
        let shown = format!("{:?}", ScramVerifier::from_password("pencil", b"salt", 3));
        assert_eq!(shown, "ScramVerifier { iterations: 3, .. }");
    }
}
