//! How a login is refused: what the client is told, and what only the server's log is told.
//!
//! Plain data; touches `scram_server.rs` for its errors. Codes and wording are PostgreSQL's (src/backend/libpq/auth.c,
//! crypt.c, auth-scram.c; src/backend/utils/init/miscinit.c). A client never learns why a password did not do.

use super::scram_server::ScramServerError;

/// Why a client is turned away. The caller sends it as a FATAL ErrorResponse and closes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthError {
    /// Wrong password, no password, expired password or no such role: all the same to the client.
    PasswordFailed { user: String, detail: String },
    /// The client sent an empty password, which is never right.
    EmptyPassword,
    /// The client was trusted, but there is no such role.
    RoleDoesNotExist { user: String },
    /// The password was right, but the role has NOLOGIN.
    LoginNotPermitted { user: String },
    /// The client's message breaks the protocol.
    Protocol { message: &'static str, detail: &'static str },
    /// The client asks for a SCRAM feature that PostgreSQL has not either.
    Unsupported { message: &'static str },
}

impl AuthError {
    /// The five characters of the error's code (appendix "PostgreSQL Error Codes").
    pub fn sqlstate(&self) -> &'static str {
        match self {
            AuthError::PasswordFailed { .. } | AuthError::EmptyPassword => "28P01",
            AuthError::RoleDoesNotExist { .. } | AuthError::LoginNotPermitted { .. } => "28000",
            AuthError::Protocol { .. } => "08P01",
            AuthError::Unsupported { .. } => "0A000",
        }
    }

    /// The message for the client.
    pub fn message(&self) -> String {
        match self {
            AuthError::PasswordFailed { user, .. } => format!("password authentication failed for user \"{user}\""),
            AuthError::EmptyPassword => "empty password returned by client".to_owned(),
            AuthError::RoleDoesNotExist { user } => format!("role \"{user}\" does not exist"),
            AuthError::LoginNotPermitted { user } => format!("role \"{user}\" is not permitted to log in"),
            AuthError::Protocol { message, .. } | AuthError::Unsupported { message } => (*message).to_owned(),
        }
    }

    /// More for the log. It must not reach the client: it tells which user names exist.
    pub fn log_detail(&self) -> Option<&str> {
        match self {
            AuthError::PasswordFailed { detail, .. } => Some(detail),
            AuthError::Protocol { detail, .. } => Some(detail),
            AuthError::EmptyPassword
            | AuthError::RoleDoesNotExist { .. }
            | AuthError::LoginNotPermitted { .. }
            | AuthError::Unsupported { .. } => None,
        }
    }

    /// A failure of the SCRAM exchange; `wrong_proof` says what a wrong proof means here.
    pub(super) fn from_scram(error: ScramServerError, wrong_proof: impl FnOnce() -> AuthError) -> AuthError {
        match error {
            ScramServerError::Protocol { message, detail } => AuthError::Protocol { message, detail },
            ScramServerError::Unsupported(message) => AuthError::Unsupported { message },
            ScramServerError::WrongProof => wrong_proof(),
        }
    }
}

impl std::fmt::Display for AuthError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for AuthError {}
