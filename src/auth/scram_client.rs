//! The client's end of a SCRAM-SHA-256 exchange: logs in with a password, or with the keys that an earlier exchange
//! revealed.
//!
//! Pure state machine: SASL payloads in and out; touches `scram.rs` only. It follows src/interfaces/libpq/
//! fe-auth-scram.c without channel binding. The server must prove itself, and cannot make us compute without end.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::scram::{self, Attributes, Key, RAW_NONCE_LEN, decode_key, is_printable, parse_iterations};

/// Most bytes of a server's SCRAM error text that are repeated in ours.
const MAX_SERVER_ERROR_LEN: usize = 100;

/// One exchange: [`first`](ScramClient::first), [`on_server_first`](ScramClient::on_server_first),
/// [`on_server_final`](ScramClient::on_server_final), in this order; after an error it is over.
pub struct ScramClient {
    /// client-first-message without the GS2 header.
    first_bare: String,
    nonce: String,
    state: State,
}

enum State {
    AwaitFirst(Knowledge),
    AwaitFinal { server_signature: Key },
    Proven,
    Failed,
}

/// What we know of the password.
enum Knowledge {
    Password { password: String, max_iterations: u32 },
    Keys { client_key: Key, server_key: Key },
}

/// Why the exchange failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramClientError {
    #[error("malformed SCRAM message from the server: {0}")]
    Malformed(&'static str),
    #[error("the server's SCRAM nonce does not continue ours")]
    NonceMismatch,
    #[error("the server asks for {iterations} SCRAM iterations, at most {max} are allowed")]
    TooManyIterations { iterations: u32, max: u32 },
    #[error("the server reports a SCRAM error: {0}")]
    ServerError(String),
    #[error("the server's SCRAM signature is wrong: it does not know the password's verifier")]
    WrongSignature,
}

impl ScramClient {
    /// An exchange with a password. `user` may be empty: PostgreSQL takes the name from the start-up packet.
    /// `nonce`: fresh random bytes. Computes at most `max_iterations` rounds.
    pub fn with_password(user: &str, pw: &str, nonce: &[u8; RAW_NONCE_LEN], max_iterations: u32) -> ScramClient {
        let knowledge = Knowledge::Password { password: pw.to_owned(), max_iterations };
        ScramClient::with_nonce_text(user, STANDARD.encode(nonce), knowledge)
    }

    /// An exchange with the keys of the verifier that the server has too. Salt and iteration count do not matter then,
    /// and cost nothing.
    pub fn with_keys(client_key: [u8; 32], server_key: [u8; 32], nonce: &[u8; RAW_NONCE_LEN]) -> ScramClient {
        ScramClient::with_nonce_text("", STANDARD.encode(nonce), Knowledge::Keys { client_key, server_key })
    }

    fn with_nonce_text(user: &str, nonce: String, knowledge: Knowledge) -> ScramClient {
        let user = user.replace('=', "=3D").replace(',', "=2C"); // RFC 5802 section 5.1, saslname
        ScramClient { first_bare: format!("n={user},r={nonce}"), nonce, state: State::AwaitFirst(knowledge) }
    }

    /// The client-first-message.
    pub fn first(&self) -> Vec<u8> {
        format!("n,,{}", self.first_bare).into_bytes()
    }

    /// Takes the server-first-message, yields the client-final-message.
    pub fn on_server_first(&mut self, message: &[u8]) -> Result<Vec<u8>, ScramClientError> {
        let State::AwaitFirst(knowledge) = std::mem::replace(&mut self.state, State::Failed) else {
            return Err(ScramClientError::Malformed("a challenge out of order"));
        };
        let challenge = ServerFirst::read(message, self.nonce.as_bytes())?;
        let (client_key, server_key) = knowledge.into_keys(&challenge)?;

        let without_proof = [b"c=biws,r=", challenge.nonce].concat(); // biws: base64 of "n,,"
        let auth_message = [self.first_bare.as_bytes(), b",", message, b",", &without_proof].concat();
        let client_signature = scram::hmac(&scram::sha256(&client_key), &[&auth_message]);
        let proof = STANDARD.encode(scram::xor(&client_key, &client_signature));
        self.state = State::AwaitFinal { server_signature: scram::hmac(&server_key, &[&auth_message]) };
        Ok([&without_proof[..], b",p=", proof.as_bytes()].concat())
    }

    /// Takes the server-final-message; `Ok` means that the server knows the verifier.
    pub fn on_server_final(&mut self, message: &[u8]) -> Result<(), ScramClientError> {
        let State::AwaitFinal { server_signature } = std::mem::replace(&mut self.state, State::Failed) else {
            return Err(ScramClientError::Malformed("a final message out of order"));
        };
        match Attributes::new(message).next().map_err(ScramClientError::Malformed)? {
            Some(attribute) if attribute.name == b'v' => {
                let said = decode_key(attribute.value).ok_or(ScramClientError::Malformed("bad signature"))?;
                if !bool::from(said.ct_eq(&server_signature)) {
                    return Err(ScramClientError::WrongSignature);
                }
                self.state = State::Proven;
                Ok(())
            }
            Some(attribute) if attribute.name == b'e' => {
                let shown = &attribute.value[..attribute.value.len().min(MAX_SERVER_ERROR_LEN)];
                Err(ScramClientError::ServerError(shown.escape_ascii().to_string()))
            }
            _ => Err(ScramClientError::Malformed("neither a signature nor an error")),
        }
    }

    /// Whether the server has proven itself.
    pub fn is_proven(&self) -> bool {
        matches!(self.state, State::Proven)
    }
}

impl Knowledge {
    /// ClientKey and ServerKey.
    fn into_keys(self, challenge: &ServerFirst<'_>) -> Result<(Key, Key), ScramClientError> {
        match self {
            Knowledge::Keys { client_key, server_key } => Ok((client_key, server_key)),
            Knowledge::Password { password, max_iterations } => {
                let iterations = challenge.iterations;
                if iterations > max_iterations {
                    return Err(ScramClientError::TooManyIterations { iterations, max: max_iterations });
                }
                let salted = scram::salted_password(password.as_bytes(), &challenge.salt, iterations);
                Ok((scram::client_key(&salted), scram::server_key(&salted)))
            }
        }
    }
}

/// What a server-first-message says.
struct ServerFirst<'a> {
    nonce: &'a [u8],
    salt: Vec<u8>,
    iterations: u32,
}

impl<'a> ServerFirst<'a> {
    /// RFC 5802 section 7: [m=...,] r=nonce , s=salt , i=count [, extensions]. An "m" is mandatory to understand.
    fn read(message: &'a [u8], our_nonce: &[u8]) -> Result<ServerFirst<'a>, ScramClientError> {
        let mut attributes = Attributes::new(message);
        let nonce = attributes.expect(b'r').map_err(ScramClientError::Malformed)?;
        let continues = nonce.len() > our_nonce.len() && nonce.starts_with(our_nonce) && is_printable(nonce);
        if !continues {
            return Err(ScramClientError::NonceMismatch);
        }
        let salt = attributes.expect(b's').map_err(ScramClientError::Malformed)?;
        let salt = STANDARD.decode(salt).map_err(|_| ScramClientError::Malformed("the salt is not base64"))?;
        let iterations = attributes.expect(b'i').map_err(ScramClientError::Malformed)?;
        let iterations = parse_iterations(iterations).ok_or(ScramClientError::Malformed("bad iteration count"))?;
        while attributes.next().map_err(ScramClientError::Malformed)?.is_some() {} // optional extensions
        Ok(ServerFirst { nonce, salt, iterations })
    }
}

impl fmt::Debug for ScramClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::AwaitFirst(_) => "ScramClient(awaiting the challenge)",
            State::AwaitFinal { .. } => "ScramClient(awaiting the signature)",
            State::Proven => "ScramClient(proven)",
            State::Failed => "ScramClient(failed)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ScramServer, ScramServerError, ScramServerStep, ScramVerifier};
    use super::*;

    const CHALLENGE: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn rfc_client(max_iterations: u32) -> ScramClient {
        let knowledge = Knowledge::Password { password: "pencil".into(), max_iterations };
        ScramClient::with_nonce_text("user", "rOprNGfwEbeRWgbNEkqO".into(), knowledge)
    }

    /// Runs both ends; what the server learned.
    fn log_in(mut client: ScramClient, verifier: &ScramVerifier, nonce: u8) -> Result<(Key, Key), ScramServerError> {
        let mut server = ScramServer::new(verifier.clone(), &[nonce; RAW_NONCE_LEN]);
        let ScramServerStep::Continue(challenge) = server.on_message(&client.first())? else { panic!("done early") };
        let answer = client.on_server_first(&challenge).unwrap();
        let ScramServerStep::Done { server_final, client_key, server_key } = server.on_message(&answer)? else {
            panic!("not done")
        };
        client.on_server_final(&server_final).unwrap();
        assert!(client.is_proven());
        Ok((client_key, server_key))
    }

    #[test]
    fn the_example_of_rfc_7677_is_reproduced() {
        let mut client = rfc_client(4096);
        assert_eq!(client.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let answer = client.on_server_first(CHALLENGE.as_bytes()).unwrap();
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(answer, expected.as_bytes());
        assert_eq!(client.on_server_final(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
    }

    #[test]
    fn keys_recovered_from_one_exchange_log_in_to_a_second_server() {
        let verifier = ScramVerifier::from_password("p\u{e4}ss", b"some salt", 5);
        let client = ScramClient::with_password("a,b=c", "p\u{e4}ss", &[1; 18], 5);
        let (client_key, server_key) = log_in(client, &verifier, 2).unwrap();
        let again = log_in(ScramClient::with_keys(client_key, server_key, &[3; 18]), &verifier, 4);
        assert_eq!(again, Ok((client_key, server_key)));

        let other_salt = ScramVerifier::from_password("p\u{e4}ss", b"other salt", 5);
        let elsewhere = log_in(ScramClient::with_keys(client_key, server_key, &[3; 18]), &other_salt, 4);
        assert_eq!(elsewhere, Err(ScramServerError::WrongProof));
    }

    #[test]
    fn a_wrong_password_is_refused() {
        let verifier = ScramVerifier::from_password("right", b"some salt", 5);
        let client = ScramClient::with_password("", "wrong", &[1; 18], 5);
        assert_eq!(log_in(client, &verifier, 2), Err(ScramServerError::WrongProof));
    }

    #[test]
    fn more_iterations_than_allowed_are_not_computed() {
        let error = rfc_client(4095).on_server_first(CHALLENGE.as_bytes());
        assert_eq!(error, Err(ScramClientError::TooManyIterations { iterations: 4096, max: 4095 }));
        let greedy = CHALLENGE.replace("4096", "2147483647");
        assert!(rfc_client(4096).on_server_first(greedy.as_bytes()).is_err());
        let mut with_keys = ScramClient::with_keys([1; 32], [2; 32], &[0; 18]); // base64: 24 times A
        let greedy = greedy.replace("rOprNGfwEbeRWgbNEkqO", "AAAAAAAAAAAAAAAAAAAAAAAA");
        assert!(with_keys.on_server_first(greedy.as_bytes()).is_ok(), "nothing to compute");
    }

    #[test]
    fn a_server_that_does_not_continue_our_nonce_is_refused() {
        for bad in ["r=rOprNGfwEbeRWgbNEkqO,s=AAAA,i=1", "r=rOprNGfwEbeRWgbNEkqX123,s=AAAA,i=1", "r=,s=AAAA,i=1"] {
            assert_eq!(rfc_client(9).on_server_first(bad.as_bytes()), Err(ScramClientError::NonceMismatch), "{bad}");
        }
    }

    #[test]
    fn malformed_challenges_are_named() {
        for bad in
            ["", "r", "m=x,r=rO", "s=AAAA,i=1", "r=N1,s=A*AA,i=1", "r=N1,s=AAAA,i=0", "r=N1,s=AAAA,i=x", "r=N1,s=AAAA"]
        {
            let bad = bad.replace('N', "rOprNGfwEbeRWgbNEkqO");
            let error = rfc_client(9).on_server_first(bad.as_bytes()).unwrap_err();
            assert!(matches!(error, ScramClientError::Malformed(_)), "{bad}: {error}");
        }
    }

    #[test]
    fn a_server_without_the_verifier_is_found_out() {
        let end = |message: &[u8]| {
            let mut client = rfc_client(4096);
            client.on_server_first(CHALLENGE.as_bytes()).unwrap();
            let result = client.on_server_final(message);
            assert!(!client.is_proven());
            result.unwrap_err()
        };
        assert_eq!(end(b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), ScramClientError::WrongSignature);
        assert_eq!(end(b"e=other-error"), ScramClientError::ServerError("other-error".into()));
        assert!(matches!(end(b"v=AAAA"), ScramClientError::Malformed(_)));
        assert!(matches!(end(b""), ScramClientError::Malformed(_)));
        assert!(rfc_client(1).on_server_final(b"v=AAAA").is_err(), "out of order");
    }
}
