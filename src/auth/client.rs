//! The exchange with a client: asks for a password as PostgreSQL would, and judges the answers.
//!
//! Pure state machine: bodies of 'p' messages in; complete 'R' messages out; touches the rest of `auth` only. It
//! follows ClientAuthentication in src/backend/libpq/auth.c. AuthenticationOk and ErrorResponse are the caller's.
//!
//! A user who does not exist, has no password, or whose password has expired goes through the same exchange as anybody
//! and fails at its end.

use std::fmt;

use subtle::ConstantTimeEq;

use super::error::AuthError;
use super::md5::{md5_hash, md5_response};
use super::scram::{self, DEFAULT_ITERATIONS, MAX_PLAIN_CHECK_ITERATIONS, RAW_NONCE_LEN, SCRAM_SHA_256, ScramVerifier};
use super::scram_server::{ScramServer, ScramServerStep};
use super::secret::{Credentials, PlainCheck, Role, Secret};

/// Longest body of a SASL message from a client, bytes (PG_MAX_SASL_MESSAGE_LENGTH in auth-sasl.c).
pub const MAX_SASL_MESSAGE_LEN: usize = 1024;
/// Longest body of a PasswordMessage, bytes (PG_MAX_AUTH_TOKEN_LENGTH in auth.h). No 'p' body longer than this need be
/// read at all.
pub const MAX_PASSWORD_MESSAGE_LEN: usize = 65535;

/// Codes of the 'R' messages that are sent here (protocol chapter "Message Formats").
const AUTH_CLEARTEXT_PASSWORD: i32 = 3;
const AUTH_MD5_PASSWORD: i32 = 5;
const AUTH_SASL: i32 = 10;
const AUTH_SASL_CONTINUE: i32 = 11;
const AUTH_SASL_FINAL: i32 = 12;

/// How a client is to prove itself: the methods of pool_hba that need no help from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Not at all.
    Trust,
    /// The password in clear.
    Password,
    /// md5, or SCRAM where the secret is a verifier (or there is none): PostgreSQL's rule.
    Md5,
    ScramSha256,
}

/// What to do next.
pub enum Step {
    /// Send these complete messages and wait for the next 'p' message.
    Send(Vec<u8>),
    /// The client is who it says. Send these messages (may be none), then AuthenticationOk.
    Done { send: Vec<u8>, credentials: Credentials },
    /// Turn the client away.
    Fail(AuthError),
}

/// One client's exchange.
pub struct ClientAuth {
    account: Account,
    state: State,
}

enum State {
    /// Nothing to wait for: see [`ClientAuth::without_exchange`].
    Trusted,
    AwaitPassword,
    AwaitMd5 {
        expected: String,
    },
    /// The first SASL message names the mechanism.
    AwaitSaslInitial(ScramServer),
    AwaitSasl(ScramServer),
    Finished,
}

/// What was known of the user before the first message.
struct Account {
    user: String,
    /// [`Secret::None`] if there is no such role.
    secret: Secret,
    role_exists: bool,
    can_login: bool,
    /// Most SCRAM rounds that are computed for this client.
    max_iterations: u32,
    /// Why no password will do, for the log.
    refusal: Option<String>,
}

impl ClientAuth {
    /// Begins an exchange; the bytes are the first message to send, none for [`Method::Trust`]: then ask
    /// [`ClientAuth::without_exchange`]. `role`: `None` if there is no such role. `random`: fresh random bytes.
    ///
    /// A user who has no verifier gets another salt each time here, which tells them from those who have one. Where
    /// that matters use [`ClientAuth::with_mock_secret`].
    pub fn new(method: Method, user: &str, role: Option<Role>, random: [u8; 40]) -> (ClientAuth, Vec<u8>) {
        ClientAuth::with_mock_secret(method, user, role, random, &random[RAW_NONCE_LEN + 4..])
    }

    /// As [`ClientAuth::new`], with the secret that the salts of users without a verifier are made from. Random, never
    /// told, the same for all connections and for as long as possible (PostgreSQL keeps its own in pg_control).
    pub fn with_mock_secret(
        method: Method,
        user: &str,
        role: Option<Role>,
        random: [u8; 40],
        mock_secret: &[u8],
    ) -> (ClientAuth, Vec<u8>) {
        let mut nonce = [0; RAW_NONCE_LEN];
        nonce.copy_from_slice(&random[..RAW_NONCE_LEN]);
        let mut md5_salt = [0; 4];
        md5_salt.copy_from_slice(&random[RAW_NONCE_LEN..RAW_NONCE_LEN + 4]);

        let account = Account::new(method, user, role);
        let (state, first) = match method {
            Method::Trust => (State::Trusted, Vec::new()),
            Method::Password => (State::AwaitPassword, auth_request(AUTH_CLEARTEXT_PASSWORD, &[])),
            Method::Md5 => match &account.secret {
                Secret::Md5(hash) => ask_for_md5(hash, md5_salt),
                Secret::Plain(password) => ask_for_md5(&md5_hash(password, user), md5_salt),
                Secret::Scram(_) | Secret::None => ask_for_scram(&account, &nonce, mock_secret),
            },
            Method::ScramSha256 => ask_for_scram(&account, &nonce, mock_secret),
        };
        (ClientAuth { account, state }, first)
    }

    /// Sets another bound than [`MAX_PLAIN_CHECK_ITERATIONS`] for the SCRAM rounds computed to check a plain password.
    pub fn limit_iterations(&mut self, max: u32) {
        self.account.max_iterations = max;
    }

    /// The outcome for a method that asks the client nothing (trust); `None` if the client was asked.
    pub fn without_exchange(&mut self) -> Option<Step> {
        let State::Trusted = self.state else { return None };
        self.state = State::Finished;
        if !self.account.role_exists {
            return Some(Step::Fail(AuthError::RoleDoesNotExist { user: self.account.user.clone() }));
        }
        Some(self.account.admit(Vec::new(), self.account.secret.credentials()))
    }

    /// Takes the body of a 'p' message.
    pub fn on_message(&mut self, body: &[u8]) -> Step {
        match std::mem::replace(&mut self.state, State::Finished) {
            State::AwaitPassword => self.account.judge_plain(body),
            State::AwaitMd5 { expected } => self.account.judge_md5(body, &expected),
            State::AwaitSaslInitial(server) => match read_sasl_initial(body) {
                Ok(Some(payload)) => self.advance_scram(server, payload),
                Ok(None) => {
                    // RFC 4422 allows a mechanism without initial data: an empty challenge asks for it.
                    self.state = State::AwaitSasl(server);
                    Step::Send(auth_request(AUTH_SASL_CONTINUE, &[]))
                }
                Err(error) => Step::Fail(error),
            },
            State::AwaitSasl(_) if body.len() > MAX_SASL_MESSAGE_LEN => Step::Fail(too_long()),
            State::AwaitSasl(server) => self.advance_scram(server, body),
            State::Trusted | State::Finished => {
                Step::Fail(protocol("unexpected authentication message", "Nothing had been asked for."))
            }
        }
    }

    fn advance_scram(&mut self, mut server: ScramServer, payload: &[u8]) -> Step {
        match server.on_message(payload) {
            Ok(ScramServerStep::Continue(challenge)) => {
                self.state = State::AwaitSasl(server);
                Step::Send(auth_request(AUTH_SASL_CONTINUE, &challenge))
            }
            Ok(ScramServerStep::Done { server_final, client_key, server_key }) => {
                let credentials = match self.account.secret.credentials() {
                    Credentials::None => Credentials::Scram { client_key, server_key },
                    known => known, // the password itself does more than its keys
                };
                self.account.pass(auth_request(AUTH_SASL_FINAL, &server_final), credentials)
            }
            Err(error) => Step::Fail(AuthError::from_scram(error, || self.account.wrong_password())),
        }
    }
}

impl Account {
    fn new(method: Method, user: &str, role: Option<Role>) -> Account {
        let role_exists = role.is_some();
        let role = role.unwrap_or(Role { secret: Secret::None, can_login: false, valid_until_passed: false });
        let refusal = if !role_exists {
            Some(format!("Role \"{user}\" does not exist."))
        } else if role.secret == Secret::None {
            Some(format!("User \"{user}\" has no password assigned."))
        } else if role.valid_until_passed {
            Some(format!("User \"{user}\" has an expired password."))
        } else if method == Method::ScramSha256 && matches!(role.secret, Secret::Md5(_)) {
            Some(format!("User \"{user}\" does not have a valid SCRAM secret."))
        } else {
            None
        };
        Account {
            user: user.to_owned(),
            secret: role.secret,
            role_exists,
            can_login: role.can_login,
            max_iterations: MAX_PLAIN_CHECK_ITERATIONS,
            refusal,
        }
    }

    /// The body of a PasswordMessage after AuthenticationCleartextPassword.
    fn judge_plain(&self, body: &[u8]) -> Step {
        let password = match read_password(body) {
            Ok(password) => password,
            Err(error) => return Step::Fail(error),
        };
        match self.secret.check_plain(&self.user, password, self.max_iterations) {
            PlainCheck::Same => match std::str::from_utf8(password) {
                Ok(text) => self.pass(Vec::new(), Credentials::Plain(text.into())),
                Err(_) => Step::Fail(self.failure("The password is right, but not UTF-8: nodes cannot be given it.")),
            },
            PlainCheck::Different => Step::Fail(self.wrong_password()),
            PlainCheck::TooManyIterations => {
                let limit = self.max_iterations;
                let detail = format!("The SCRAM secret has over {limit} iterations; method scram-sha-256 can use it.");
                Step::Fail(self.failure(&detail))
            }
        }
    }

    /// The body of a PasswordMessage after AuthenticationMD5Password.
    fn judge_md5(&self, body: &[u8], expected: &str) -> Step {
        match read_password(body) {
            Err(error) => Step::Fail(error),
            Ok(said) if bool::from(said.ct_eq(expected.as_bytes())) => self.pass(Vec::new(), self.secret.credentials()),
            Ok(_) => Step::Fail(self.wrong_password()),
        }
    }

    /// The password was right; is that enough?
    fn pass(&self, send: Vec<u8>, credentials: Credentials) -> Step {
        match &self.refusal {
            Some(_) => Step::Fail(self.wrong_password()),
            None => self.admit(send, credentials),
        }
    }

    fn admit(&self, send: Vec<u8>, credentials: Credentials) -> Step {
        match self.can_login {
            true => Step::Done { send, credentials },
            false => Step::Fail(AuthError::LoginNotPermitted { user: self.user.clone() }),
        }
    }

    fn wrong_password(&self) -> AuthError {
        self.failure(&format!("Password does not match for user \"{}\".", self.user))
    }

    /// `detail` for the log, unless no password would have done anyway.
    fn failure(&self, detail: &str) -> AuthError {
        let detail = self.refusal.clone().unwrap_or_else(|| detail.to_owned());
        AuthError::PasswordFailed { user: self.user.clone(), detail }
    }
}

fn ask_for_md5(stored_hash: &str, salt: [u8; 4]) -> (State, Vec<u8>) {
    let expected = md5_response(stored_hash, salt);
    (State::AwaitMd5 { expected }, auth_request(AUTH_MD5_PASSWORD, &salt))
}

/// A plain secret costs [`DEFAULT_ITERATIONS`] rounds here; a verifier none.
fn ask_for_scram(account: &Account, nonce: &[u8; RAW_NONCE_LEN], mock_secret: &[u8]) -> (State, Vec<u8>) {
    let user = &account.user;
    let verifier = match &account.secret {
        Secret::Scram(verifier) => verifier.clone(),
        Secret::Plain(password) => {
            ScramVerifier::from_password(password, &scram::user_salt(user, mock_secret), DEFAULT_ITERATIONS)
        }
        // No password will do; Account::refusal says why.
        Secret::Md5(_) | Secret::None => ScramVerifier::mock(user, mock_secret),
    };
    let mechanisms = [SCRAM_SHA_256.as_bytes(), b"\0\0"].concat(); // a list of C strings, ended by an empty one
    (State::AwaitSaslInitial(ScramServer::new(verifier, nonce)), auth_request(AUTH_SASL, &mechanisms))
}

/// A complete 'R' message.
fn auth_request(code: i32, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u32; // itself and the code; payloads are a few hundred bytes
    [b"R", &length.to_be_bytes()[..], &code.to_be_bytes(), payload].concat()
}

/// A password as recv_password_packet in auth.c takes it: one C string and nothing else, not empty.
fn read_password(body: &[u8]) -> Result<&[u8], AuthError> {
    if body.len() > MAX_PASSWORD_MESSAGE_LEN {
        return Err(too_long());
    }
    match body.split_last() {
        Some((0, [])) => Err(AuthError::EmptyPassword),
        Some((0, password)) if !password.contains(&0) => Ok(password),
        _ => Err(protocol("invalid password packet size", "The password is not one C string.")),
    }
}

/// SASLInitialResponse: mechanism as a C string, Int32 length of the data or -1 for none, the data.
fn read_sasl_initial(body: &[u8]) -> Result<Option<&[u8]>, AuthError> {
    if body.len() > MAX_SASL_MESSAGE_LEN {
        return Err(too_long());
    }
    let invalid = || protocol("invalid message format", "The SASLInitialResponse is cut short or too long.");
    let end = body.iter().position(|&b| b == 0).ok_or_else(invalid)?;
    let (mechanism, rest) = (&body[..end], &body[end + 1..]);
    if mechanism != SCRAM_SHA_256.as_bytes() {
        let detail = "Only SCRAM-SHA-256 had been offered.";
        return Err(protocol("client selected an invalid SASL authentication mechanism", detail));
    }
    let (length, payload) = rest.split_first_chunk::<4>().ok_or_else(invalid)?;
    match i32::from_be_bytes(*length) {
        -1 if payload.is_empty() => Ok(None),
        length if usize::try_from(length) == Ok(payload.len()) => Ok(Some(payload)),
        _ => Err(invalid()),
    }
}

fn protocol(message: &'static str, detail: &'static str) -> AuthError {
    AuthError::Protocol { message, detail }
}

fn too_long() -> AuthError {
    protocol("invalid message length", "The authentication message is too long.")
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Trusted => "trusted",
            State::AwaitPassword => "awaiting a password",
            State::AwaitMd5 { .. } => "awaiting an md5 response",
            State::AwaitSaslInitial(_) => "awaiting the first SASL message",
            State::AwaitSasl(_) => "awaiting a SASL message",
            State::Finished => "finished",
        };
        write!(f, "ClientAuth({state})")
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Send(bytes) => write!(f, "Send({} bytes)", bytes.len()),
            Step::Done { credentials, .. } => write!(f, "Done({credentials:?})"),
            Step::Fail(error) => write!(f, "Fail({error:?})"),
        }
    }
}
