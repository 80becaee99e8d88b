//! The server's end of a SCRAM-SHA-256 exchange: checks a client's proof against a verifier.
//!
//! Pure state machine: SASL payloads in (without the frame around them), SASL payloads out; touches `scram.rs` only.
//! It follows src/backend/libpq/auth-scram.c without channel binding, down to the wording of its errors. The user name
//! in the SASL message is ignored, as PostgreSQL does: the one of the start-up packet counts.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::scram::{self, Attributes, Key, RAW_NONCE_LEN, ScramVerifier, decode_key, is_printable};

/// What PostgreSQL calls a message that breaks the grammar.
const MALFORMED: &str = "malformed SCRAM message";

/// One exchange. A first message, a final message, and it is over; after an error it is over too.
pub struct ScramServer {
    state: State,
}

enum State {
    AwaitFirst { verifier: ScramVerifier, nonce: String },
    AwaitFinal(Box<Challenge>),
    Finished,
}

/// What was said so far.
struct Challenge {
    verifier: ScramVerifier,
    /// The client's nonce and ours, as they stood in the server-first message.
    nonce: Vec<u8>,
    /// What the client must repeat as channel binding data: its GS2 header in base64.
    channel_binding: &'static [u8],
    /// client-first-message-bare, a comma, server-first-message, a comma: the beginning of RFC 5802's AuthMessage.
    auth_message: Vec<u8>,
}

/// What to do after a message of the client.
#[derive(PartialEq, Eq)]
pub enum ScramServerStep {
    /// Send this payload (SASLContinue) and wait for the next message.
    Continue(Vec<u8>),
    /// The client knows the password.
    Done {
        /// The payload that proves the server to the client (SASLFinal).
        server_final: Vec<u8>,
        /// The key with which the client made its proof: it logs in wherever the same verifier is stored.
        client_key: [u8; 32],
        /// The verifier's ServerKey, which checks the answers of such servers.
        server_key: [u8; 32],
    },
}

/// Why the exchange failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramServerError {
    /// The message breaks the protocol (SQLSTATE 08P01).
    #[error("{message}: {detail}")]
    Protocol { message: &'static str, detail: &'static str },
    /// The message asks for something that PostgreSQL has not either (SQLSTATE 0A000).
    #[error("{0}")]
    Unsupported(&'static str),
    /// The proof was made with another password, or the verifier is a mock (SQLSTATE 28P01).
    #[error("the proof does not fit the verifier")]
    WrongProof,
}

fn malformed(detail: &'static str) -> ScramServerError {
    ScramServerError::Protocol { message: MALFORMED, detail }
}

impl ScramServer {
    /// An exchange against a verifier; a mock one runs to the end and fails there. `nonce`: fresh random bytes.
    pub fn new(verifier: ScramVerifier, nonce: &[u8; RAW_NONCE_LEN]) -> ScramServer {
        ScramServer::with_nonce_text(verifier, STANDARD.encode(nonce))
    }

    fn with_nonce_text(verifier: ScramVerifier, nonce: String) -> ScramServer {
        ScramServer { state: State::AwaitFirst { verifier, nonce } }
    }

    /// Takes the payload of the client's next SASL message.
    pub fn on_message(&mut self, payload: &[u8]) -> Result<ScramServerStep, ScramServerError> {
        if payload.is_empty() {
            self.state = State::Finished;
            return Err(malformed("The message is empty."));
        }
        if payload.contains(&0) {
            self.state = State::Finished;
            return Err(malformed("The message contains a zero byte."));
        }
        match std::mem::replace(&mut self.state, State::Finished) {
            State::AwaitFirst { verifier, nonce } => {
                let (challenge, server_first) = answer_client_first(verifier, &nonce, payload)?;
                self.state = State::AwaitFinal(Box::new(challenge));
                Ok(ScramServerStep::Continue(server_first))
            }
            State::AwaitFinal(challenge) => challenge.check_client_final(payload),
            State::Finished => Err(malformed("The exchange is over already.")),
        }
    }
}

/// client-first-message = gs2-header client-first-message-bare; see read_client_first_message in auth-scram.c.
fn answer_client_first(
    verifier: ScramVerifier,
    nonce: &str,
    message: &[u8],
) -> Result<(Challenge, Vec<u8>), ScramServerError> {
    let (channel_binding, bare) = split_gs2_header(message)?;
    if bare.first() == Some(&b'm') {
        return Err(ScramServerError::Unsupported("client requires an unsupported SCRAM extension"));
    }
    let mut attributes = Attributes::new(bare);
    attributes.expect(b'n').map_err(malformed)?; // the user name: ignored
    let client_nonce = attributes.expect(b'r').map_err(malformed)?;
    if !is_printable(client_nonce) {
        return Err(malformed("The nonce holds non-printable characters."));
    }
    while attributes.next().map_err(malformed)?.is_some() {} // optional extensions: well-formed, else ignored

    let nonce = [client_nonce, nonce.as_bytes()].concat();
    let tail = format!(",s={},i={}", STANDARD.encode(&verifier.salt), verifier.iterations);
    let server_first = [b"r=", &nonce[..], tail.as_bytes()].concat();
    let auth_message = [bare, b",", &server_first, b","].concat();
    Ok((Challenge { verifier, nonce, channel_binding, auth_message }, server_first))
}

/// gs2-header = gs2-cbind-flag "," [ authzid ] ","; yields what the client's final message must repeat, and the rest.
fn split_gs2_header(message: &[u8]) -> Result<(&'static [u8], &[u8]), ScramServerError> {
    let (channel_binding, rest): (&'static [u8], _) = match message {
        [b'n', rest @ ..] => (b"biws", rest), // base64 of "n,,"
        [b'y', rest @ ..] => (b"eSws", rest), // base64 of "y,,"; true, as we offer no channel binding
        [b'p', ..] => {
            return Err(malformed(
                "The client selected SCRAM-SHA-256 without channel binding, \
                 but the SCRAM message includes channel binding data.",
            ));
        }
        _ => return Err(malformed("Unexpected channel-binding flag.")),
    };
    let [b',', rest @ ..] = rest else { return Err(malformed("Comma expected after the channel-binding flag.")) };
    match rest {
        [b',', bare @ ..] => Ok((channel_binding, bare)),
        [b'a', ..] => Err(ScramServerError::Unsupported("client uses authorization identity, but it is not supported")),
        _ => Err(malformed("Unexpected attribute in client-first-message.")),
    }
}

/// What a client-final-message says.
struct ClientFinal<'a> {
    nonce: &'a [u8],
    proof: Key,
    /// All of the message before ",p=".
    without_proof: &'a [u8],
}

impl Challenge {
    fn check_client_final(mut self, message: &[u8]) -> Result<ScramServerStep, ScramServerError> {
        let said = self.read_client_final(message)?;
        if said.nonce != self.nonce {
            return Err(ScramServerError::Protocol {
                message: "invalid SCRAM response",
                detail: "Nonce does not match.",
            });
        }
        self.auth_message.extend_from_slice(said.without_proof);

        // ClientProof = ClientKey xor ClientSignature, so who has the StoredKey can undo it.
        let ScramVerifier { stored_key, server_key, .. } = &self.verifier;
        let client_signature = scram::hmac(stored_key, &[&self.auth_message]);
        let client_key = scram::xor(&said.proof, &client_signature);
        let fits = bool::from(scram::sha256(&client_key).ct_eq(stored_key));
        if !fits || self.verifier.is_mock() {
            return Err(ScramServerError::WrongProof);
        }
        let signature = scram::hmac(server_key, &[&self.auth_message]);
        let server_final = format!("v={}", STANDARD.encode(signature)).into_bytes();
        Ok(ScramServerStep::Done { server_final, client_key, server_key: *server_key })
    }

    /// See read_client_final_message in auth-scram.c.
    fn read_client_final<'a>(&self, message: &'a [u8]) -> Result<ClientFinal<'a>, ScramServerError> {
        let mut attributes = Attributes::new(message);
        if attributes.expect(b'c').map_err(malformed)? != self.channel_binding {
            return Err(ScramServerError::Protocol {
                message: "unexpected SCRAM channel-binding attribute in client-final-message",
                detail: "It does not repeat the header of the first message.",
            });
        }
        let nonce = attributes.expect(b'r').map_err(malformed)?;
        let proof = loop {
            match attributes.next().map_err(malformed)? {
                Some(attribute) if attribute.name == b'p' => break attribute,
                Some(_) => {} // an optional extension
                None => return Err(malformed("The proof is missing in client-final-message.")),
            }
        };
        if !attributes.at_end() {
            return Err(malformed("Garbage found at the end of client-final-message."));
        }
        let without_proof = &message[..proof.start - 1]; // 'c' and 'r' came before, so there is a comma to leave out
        let proof = decode_key(proof.value).ok_or(malformed("Malformed proof in client-final-message."))?;
        Ok(ClientFinal { nonce, proof, without_proof })
    }
}

impl fmt::Debug for ScramServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::AwaitFirst { .. } => "ScramServer(awaiting the first message)",
            State::AwaitFinal(_) => "ScramServer(awaiting the final message)",
            State::Finished => "ScramServer(finished)",
        })
    }
}

impl fmt::Debug for ScramServerStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ScramServerStep::Continue(_) => "Continue(..)",
            ScramServerStep::Done { .. } => "Done { .. }",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn rfc_verifier() -> ScramVerifier {
        ScramVerifier::from_password("pencil", &STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), 4096)
    }

    /// The exchange of RFC 7677 up to the server's challenge.
    fn challenged() -> ScramServer {
        let mut server = ScramServer::with_nonce_text(rfc_verifier(), SERVER_NONCE.into());
        let step = server.on_message(FIRST).unwrap();
        let expected = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        assert_eq!(step, ScramServerStep::Continue(expected.into()));
        server
    }

    fn first_error(message: &[u8]) -> ScramServerError {
        ScramServer::with_nonce_text(rfc_verifier(), SERVER_NONCE.into()).on_message(message).unwrap_err()
    }

    fn final_error(message: &str) -> ScramServerError {
        challenged().on_message(message.as_bytes()).unwrap_err()
    }

    fn is_malformed(error: &ScramServerError) -> bool {
        matches!(error, ScramServerError::Protocol { message: MALFORMED, .. })
    }

    #[test]
    fn the_example_of_rfc_7677_succeeds_and_reveals_the_client_key() {
        let ScramServerStep::Done { server_final, client_key, server_key } =
            challenged().on_message(FINAL.as_bytes()).unwrap()
        else {
            panic!("not done")
        };
        assert_eq!(server_final, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert_eq!(scram::sha256(&client_key), rfc_verifier().stored_key);
        assert_eq!(server_key, rfc_verifier().server_key);
    }

    #[test]
    fn channel_binding_data_must_repeat_the_flag() {
        let mut server = ScramServer::with_nonce_text(rfc_verifier(), SERVER_NONCE.into());
        server.on_message(b"y,,n=,r=abc").unwrap();
        let error = server.on_message(FINAL.as_bytes()).unwrap_err(); // says biws
        assert!(matches!(error, ScramServerError::Protocol { message, .. } if message.contains("channel-binding")));
        assert!(matches!(final_error(&FINAL.replace("biws", "eSws")), ScramServerError::Protocol { .. }));
    }

    #[test]
    fn channel_binding_identities_and_mandatory_extensions_are_refused() {
        let error = first_error(b"p=tls-server-end-point,,n=,r=abc");
        assert!(is_malformed(&error) && error.to_string().contains("includes channel binding data"));
        assert!(matches!(first_error(b"n,a=other,n=,r=abc"), ScramServerError::Unsupported(_)));
        assert!(matches!(first_error(b"n,,m=ext,n=,r=abc"), ScramServerError::Unsupported(_)));
    }

    #[test]
    fn malformed_first_messages_are_protocol_violations() {
        for message in [
            "",
            "n",
            "x,,n=,r=a",
            "n,n=,r=a",
            "n,,",
            "n,,r=a",
            "n,,n=u",
            "n,,n=u,r=\u{e9}",
            "n,,n=u,r=a,1=b",
            "n,,n=\0,r=a",
        ] {
            assert!(is_malformed(&first_error(message.as_bytes())), "{message:?}");
        }
    }

    #[test]
    fn a_tampered_nonce_is_a_protocol_violation() {
        for bad in [FINAL.replace("hNlF$k0", "hNlF$k1"), FINAL.replace("k0,", "k,"), FINAL.replace("r=rO", "r=")] {
            let error = final_error(&bad);
            assert!(matches!(error, ScramServerError::Protocol { detail: "Nonce does not match.", .. }), "{bad}");
        }
    }

    #[test]
    fn proofs_that_are_short_long_missing_or_no_base64_are_malformed() {
        let proof = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        for bad in ["", "AAAA", "dHzb*apWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", &proof[..43]] {
            assert!(is_malformed(&final_error(&FINAL.replace(proof, bad))), "{bad}");
        }
        let long = STANDARD.encode([1; 33]);
        assert!(is_malformed(&final_error(&FINAL.replace(proof, &long))));
        assert!(is_malformed(&final_error(FINAL.split(",p=").next().unwrap())));
        assert!(is_malformed(&final_error(&format!("{FINAL},x=y"))));
    }

    #[test]
    fn a_wrong_proof_and_a_mock_verifier_fail_alike() {
        assert_eq!(final_error(&FINAL.replace("p=dH", "p=eH")), ScramServerError::WrongProof);
        assert_eq!(final_error(&FINAL.replace(",p=", ",x=y,p=")), ScramServerError::WrongProof); // it is signed
        let mut server = ScramServer::with_nonce_text(ScramVerifier::mock("user", b"s"), SERVER_NONCE.into());
        server.on_message(FIRST).unwrap();
        assert_eq!(server.on_message(FINAL.as_bytes()), Err(ScramServerError::WrongProof));
    }

    #[test]
    fn nothing_follows_the_end_of_an_exchange() {
        let mut server = challenged();
        server.on_message(FINAL.as_bytes()).unwrap();
        assert!(is_malformed(&server.on_message(FINAL.as_bytes()).unwrap_err()));
    }
}
