//! The exchange with a node: answers what the node asks, with what the client's login left.
//!
//! Pure state machine: bodies of 'R' messages in, complete 'p' messages out; touches the rest of `auth` only. It
//! follows pg_fe_sendauth in src/interfaces/libpq/fe-auth.c. An ErrorResponse of the node is the caller's.

use std::fmt;

use super::md5::{md5_hash, md5_response};
use super::scram::{RAW_NONCE_LEN, SCRAM_SHA_256};
use super::scram_client::{ScramClient, ScramClientError};
use super::secret::Credentials;

/// Longest body of an 'R' message that is read, bytes (libpq's limit in PQconnectPoll is the same).
pub const MAX_AUTH_REQUEST_LEN: usize = 2000;

/// One node connection's exchange.
pub struct NodeAuth {
    user: String,
    credentials: Credentials,
    nonce: [u8; RAW_NONCE_LEN],
    max_iterations: u32,
    state: State,
}

enum State {
    /// The node has asked nothing yet.
    Start,
    /// A password or an md5 response is under way.
    PasswordSent,
    /// The SASLInitialResponse is under way.
    SaslStarted(ScramClient),
    /// The proof is under way; now the node must prove itself.
    SaslAnswered(ScramClient),
    SaslProven,
    Finished,
}

/// What to do after a request of the node.
#[derive(PartialEq, Eq)]
pub enum NodeStep {
    /// Send this complete message.
    Reply(Vec<u8>),
    /// Nothing to send; the node goes on.
    Wait,
    /// AuthenticationOk.
    Ok,
}

/// Why the proxy cannot log in to a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeAuthError {
    #[error("the node asks for {method} authentication, which is not supported towards nodes")]
    UnsupportedMethod { method: String },
    #[error("the node offers no SASL mechanism that is supported (only SCRAM-SHA-256 is): {offered}")]
    UnsupportedMechanisms { offered: String },
    #[error(
        "the node asks user \"{user}\" for {wants}, but {known}; give the user a pool_passwd entry in plain, \
         or use the same method on all sides"
    )]
    NoFittingSecret { user: String, wants: &'static str, known: &'static str },
    #[error("the node broke the authentication protocol: {0}")]
    Protocol(&'static str),
    #[error(transparent)]
    Scram(#[from] ScramClientError),
}

impl NodeAuthError {
    /// The code for a client to whom this is reported.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            NodeAuthError::UnsupportedMethod { .. }
            | NodeAuthError::UnsupportedMechanisms { .. }
            | NodeAuthError::NoFittingSecret { .. } => "28000",
            NodeAuthError::Protocol(_) | NodeAuthError::Scram(_) => "08P01",
        }
    }
}

/// What a node can ask for (protocol chapter "Message Formats", and libpq/protocol.h for what is no longer there).
enum Request<'a> {
    Ok,
    CleartextPassword,
    Md5Password { salt: [u8; 4] },
    Sasl { mechanisms: &'a [u8] },
    SaslContinue(&'a [u8]),
    SaslFinal(&'a [u8]),
}

impl NodeAuth {
    /// Begins when the start-up packet of `user` has been sent. `nonce`: fresh random bytes. `max_iterations`: most
    /// SCRAM rounds that are computed for a plain password.
    pub fn new(user: &str, credentials: Credentials, nonce: [u8; RAW_NONCE_LEN], max_iterations: u32) -> NodeAuth {
        NodeAuth { user: user.to_owned(), credentials, nonce, max_iterations, state: State::Start }
    }

    /// Takes the body of an 'R' message, beginning with its Int32 code. After an error the exchange is over.
    pub fn on_request(&mut self, body: &[u8]) -> Result<NodeStep, NodeAuthError> {
        let state = std::mem::replace(&mut self.state, State::Finished);
        match (state, Request::read(body)?) {
            (State::Start | State::PasswordSent | State::SaslProven, Request::Ok) => Ok(NodeStep::Ok),
            (State::SaslStarted(_) | State::SaslAnswered(_), Request::Ok) => {
                Err(NodeAuthError::Protocol("it ended the SCRAM exchange without proving itself"))
            }
            (State::Start, Request::CleartextPassword) => self.answer_cleartext(),
            (State::Start, Request::Md5Password { salt }) => self.answer_md5(salt),
            (State::Start, Request::Sasl { mechanisms }) => self.start_sasl(mechanisms),
            (State::SaslStarted(mut client), Request::SaslContinue(challenge)) => {
                let answer = client.on_server_first(challenge)?;
                self.state = State::SaslAnswered(client);
                Ok(NodeStep::Reply(response(&[&answer])))
            }
            (State::SaslAnswered(mut client), Request::SaslFinal(signature)) => {
                client.on_server_final(signature)?;
                self.state = State::SaslProven;
                Ok(NodeStep::Wait)
            }
            (State::Finished, _) => Err(NodeAuthError::Protocol("a request after the end of the exchange")),
            (
                State::Start | State::PasswordSent | State::SaslStarted(_) | State::SaslAnswered(_) | State::SaslProven,
                _,
            ) => Err(NodeAuthError::Protocol("a request out of order")),
        }
    }

    fn answer_cleartext(&mut self) -> Result<NodeStep, NodeAuthError> {
        let Credentials::Plain(password) = &self.credentials else { return Err(self.no_secret_for("its password")) };
        self.state = State::PasswordSent;
        Ok(NodeStep::Reply(response(&[password.as_bytes(), b"\0"])))
    }

    fn answer_md5(&mut self, salt: [u8; 4]) -> Result<NodeStep, NodeAuthError> {
        let answer = match &self.credentials {
            Credentials::Plain(password) => md5_response(&md5_hash(password, &self.user), salt),
            Credentials::Md5(stored_hash) => md5_response(stored_hash, salt),
            Credentials::Scram { .. } | Credentials::None => return Err(self.no_secret_for("md5")),
        };
        self.state = State::PasswordSent;
        Ok(NodeStep::Reply(response(&[answer.as_bytes(), b"\0"])))
    }

    /// `mechanisms`: C strings, ended by an empty one. The user name stays empty, as libpq leaves it.
    fn start_sasl(&mut self, mechanisms: &[u8]) -> Result<NodeStep, NodeAuthError> {
        let mut offered = mechanisms.split(|&b| b == 0).take_while(|name| !name.is_empty());
        if !offered.any(|name| name == SCRAM_SHA_256.as_bytes()) {
            let offered = mechanisms.split(|&b| b == 0).take_while(|name| !name.is_empty());
            let offered: Vec<_> = offered.map(|name| name.escape_ascii().to_string()).collect();
            return Err(NodeAuthError::UnsupportedMechanisms { offered: offered.join(", ") });
        }
        let client = match &self.credentials {
            Credentials::Plain(password) => ScramClient::with_password("", password, &self.nonce, self.max_iterations),
            Credentials::Scram { client_key, server_key } => {
                ScramClient::with_keys(*client_key, *server_key, &self.nonce)
            }
            Credentials::Md5(_) | Credentials::None => return Err(self.no_secret_for(SCRAM_SHA_256)),
        };
        let first = client.first();
        let length = (first.len() as u32).to_be_bytes(); // some tens of bytes
        self.state = State::SaslStarted(client);
        Ok(NodeStep::Reply(response(&[SCRAM_SHA_256.as_bytes(), b"\0", &length, &first])))
    }

    fn no_secret_for(&self, wants: &'static str) -> NodeAuthError {
        let known = match self.credentials {
            Credentials::None => "nothing is known that would prove it (the client gave no password)",
            Credentials::Plain(_) => "only its password is known",
            Credentials::Md5(_) => "only the md5 hash of its password is known",
            Credentials::Scram { .. } => "only its SCRAM keys are known (the client logged in with SCRAM)",
        };
        NodeAuthError::NoFittingSecret { user: self.user.clone(), wants, known }
    }
}

impl<'a> Request<'a> {
    fn read(body: &'a [u8]) -> Result<Request<'a>, NodeAuthError> {
        if body.len() > MAX_AUTH_REQUEST_LEN {
            return Err(NodeAuthError::Protocol("an authentication request is too long"));
        }
        let (code, payload) = body.split_first_chunk().ok_or(NodeAuthError::Protocol("a request without a code"))?;
        let request = match i32::from_be_bytes(*code) {
            0 => Request::Ok,
            3 => Request::CleartextPassword,
            5 => {
                let salt = payload.try_into().map_err(|_| NodeAuthError::Protocol("an md5 salt is not 4 bytes"))?;
                return Ok(Request::Md5Password { salt });
            }
            10 => return Ok(Request::Sasl { mechanisms: payload }),
            11 => return Ok(Request::SaslContinue(payload)),
            12 => return Ok(Request::SaslFinal(payload)),
            other => return Err(NodeAuthError::UnsupportedMethod { method: method_name(other) }),
        };
        match payload {
            [] => Ok(request),
            _ => Err(NodeAuthError::Protocol("a request has bytes left over")),
        }
    }
}

fn method_name(code: i32) -> String {
    let name = match code {
        1 => "Kerberos V4",
        2 => "Kerberos V5",
        4 => "crypt",
        6 => "SCM credential",
        7 | 8 => "GSSAPI",
        9 => "SSPI",
        unknown => return format!("unknown (code {unknown})"),
    };
    name.to_owned()
}

/// A complete 'p' message.
fn response(parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = 4 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut message = Vec::with_capacity(1 + length);
    message.push(b'p');
    message.extend_from_slice(&(length as u32).to_be_bytes()); // passwords are far shorter than 4 GB
    parts.iter().for_each(|part| message.extend_from_slice(part));
    message
}

impl fmt::Debug for NodeAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Start => "start",
            State::PasswordSent => "password sent",
            State::SaslStarted(_) => "SASL started",
            State::SaslAnswered(_) => "proof sent",
            State::SaslProven => "node has proven itself",
            State::Finished => "finished",
        };
        write!(f, "NodeAuth({state}, {:?})", self.credentials)
    }
}

impl fmt::Debug for NodeStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NodeStep::Reply(bytes) => write!(f, "Reply({} bytes)", bytes.len()),
            NodeStep::Wait => f.write_str("Wait"),
            NodeStep::Ok => f.write_str("Ok"),
        }
    }
}
