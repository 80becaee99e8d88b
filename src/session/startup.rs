//! From the first byte to the first ReadyForQuery: start-up packet, password, the lane's login.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::io::{Answer, Cx, Question, TimerKind};
use super::link::{Link, Login};
use super::logging::{Host, Name};
use super::recycle::Had;
use super::settings::CUSTOM_MAX;
use super::tokens::is_ours;
use super::transaction::Target;
use super::{Session, Stage};
use crate::auth::{ClientAuth, Credentials, Method, Role, Secret, Step};
use crate::config::ClientAuth as ConfiguredAuth;
use crate::sequencer::NodeId;
use crate::shard::driver::ConnId;
use crate::wire::frame::Frame;
use crate::wire::front::StartupPacket;
use crate::wire::{PgError, STARTUP_PACKET_MAX, back, read_u32};

/// Newest minor version of protocol 3 spoken here.
const MINOR: u32 = 0;

/// Settings of a login in the proxy's hands. The client's own timeouts would fire at moments that mean something
/// else here (while a replica is awaited), so lanes and readers run without the server's.
const NO_TIMEOUTS: &str = "-c idle_in_transaction_session_timeout=0";

/// What a link is for, and so whom it logs in as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LinkFor {
    /// The client's statements: as the client.
    Client,
    /// Scripts of them: as the client, so that nothing reaches further on a replica than it could on main.
    Scripts,
    /// Images: as `apply_user`, which may say that no trigger fires.
    Image,
}

/// More connections than `starting_clients` have not logged in yet.
pub fn too_many_starting(limit: usize) -> PgError {
    PgError::fatal("53300", "sorry, too many clients already")
        .hint(format!("starting_clients allows {limit} connections per shard that have not logged in yet."))
}

impl Session {
    /// The connection is cut off at once: words to whoever says nothing would keep its place while they leave.
    pub(super) fn make_room(&mut self, cx: &mut Cx<'_>) {
        tracing::info!(peer = %Host(self.peer), "connection without a start-up packet closed: starting_clients is reached");
        cx.io.abort(self.client);
        self.client_gone = true;
        self.end(cx);
    }

    /// Bytes before the start-up packet is complete. Returns what follows it.
    pub(super) fn startup_bytes(&mut self, bytes: Bytes, cx: &mut Cx<'_>) -> Option<Bytes> {
        let Stage::Startup(buffer) = &mut self.stage else { return Some(bytes) };
        buffer.extend_from_slice(&bytes);
        loop {
            let Stage::Startup(buffer) = &mut self.stage else { return None };
            let length = read_u32(buffer)? as usize;
            if !(8..=STARTUP_PACKET_MAX).contains(&length) {
                tracing::warn!(length, peer = %Host(self.peer), "invalid length of startup packet");
                let e = PgError::fatal("08P01", "invalid length of startup packet");
                self.fatal(&e, cx);
                return None;
            }
            if buffer.len() < length {
                return None;
            }
            let packet = buffer.split_to(length);
            let Some(packet) = StartupPacket::read(&packet[4..]) else {
                self.fatal(&PgError::fatal("08P01", "invalid startup packet layout"), cx);
                return None;
            };
            match packet {
                StartupPacket::Ssl | StartupPacket::GssEnc => {
                    self.out.push(Bytes::from_static(b"N"));
                    self.flush(cx);
                }
                StartupPacket::Cancel { pid, secret } => {
                    if let Some(secret) = read_u32(&secret) {
                        cx.io.cancel_client(pid, secret);
                    }
                    self.end(cx);
                    return None;
                }
                StartupPacket::Unsupported { major, minor } => {
                    let e = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{MINOR}");
                    self.fatal(&PgError::fatal("0A000", e), cx);
                    return None;
                }
                StartupPacket::Startup { minor, parameters } => {
                    let Stage::Startup(buffer) = &mut self.stage else { return None };
                    let rest = std::mem::take(buffer).freeze();
                    self.startup_message(minor, parameters, cx);
                    return (!matches!(self.stage, Stage::Over)).then_some(rest);
                }
            }
        }
    }

    fn startup_message(&mut self, minor: u32, parameters: Vec<(String, String)>, cx: &mut Cx<'_>) {
        let unknown: Vec<&str> =
            parameters.iter().map(|(n, _)| n.as_str()).filter(|n| n.starts_with("_pq_.")).collect();
        if minor > MINOR || !unknown.is_empty() {
            self.out.push(back::negotiate_protocol_version(MINOR, &unknown));
        }
        let get = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        let Some(user) = get("user").filter(|u| !u.is_empty()) else {
            let e = PgError::fatal("28000", "no PostgreSQL user name specified in startup packet");
            return self.fatal(&e, cx);
        };
        match get("replication").map(|v| (wants_replication(&v), v)) {
            None | Some((Some(false), _)) => {}
            Some((Some(true), _)) => {
                let e = PgError::fatal("0A000", "replication connections are not relayed")
                    .hint("Connect to a node directly for a base backup or WAL streaming.");
                return self.fatal(&e, cx);
            }
            Some((None, value)) => {
                let e = PgError::fatal("22023", format!("invalid value for parameter \"replication\": \"{value}\""))
                    .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".");
                return self.fatal(&e, cx);
            }
        }
        self.user = Arc::from(user.as_str());
        self.database = Arc::from(get("database").filter(|d| !d.is_empty()).unwrap_or(user).as_str());
        self.version = cx.env.catalogue_versions.of(&self.database);
        self.startup = parameters
            .into_iter()
            .filter(|(n, _)| !matches!(n.as_str(), "user" | "database" | "replication") && !n.starts_with("_pq_."))
            .collect();
        let given = self.startup.iter().flat_map(|(n, v)| [n, v]);
        let (ours, custom): (BTreeSet<String>, _) =
            given.flat_map(|s| crate::sql::custom::found_in(s.as_bytes())).take(CUSTOM_MAX).partition(|n| is_ours(n));
        self.custom = custom;
        if !ours.is_empty() {
            self.min_csn_may_change();
        }
        let limit = cx.env.config.limits.num_init_children;
        if cx.env.clients.fetch_add(1, Ordering::Relaxed) >= limit {
            cx.env.clients.fetch_sub(1, Ordering::Relaxed);
            let e = PgError::fatal("53300", "sorry, too many clients already")
                .hint(format!("num_init_children allows {limit} clients."));
            return self.fatal(&e, cx);
        }
        self.counted = true;
        if let Some(passwd) = &cx.env.pool_passwd {
            match passwd.lookup(&self.user) {
                Ok(Some(secret)) => {
                    let role = Role { secret: secret.clone(), can_login: true, valid_until_passed: false };
                    return self.ask_password(Some(role), cx);
                }
                Ok(None) => {}
                Err(e) => {
                    tracing::error!(user = %self.user, error = %e, "pool_passwd entry cannot be used");
                    let e =
                        PgError::fatal("28000", format!("pool_passwd entry of user \"{}\" cannot be used", self.user))
                            .detail(e.to_string());
                    return self.fatal(&e, cx);
                }
            }
        }
        let token = cx.io.ask(Question::Role { user: self.user.to_string() });
        self.stage = Stage::Secret { token };
    }

    /// The control plane has looked the role up.
    pub(super) fn secret_found(&mut self, answer: Answer, cx: &mut Cx<'_>) {
        match answer {
            Answer::Role(Ok(role)) => self.ask_password(role, cx),
            Answer::Role(Err(why)) => {
                let e = PgError::fatal("57P03", "the database system is not available: roles could not be looked up")
                    .detail(why);
                self.fatal(&e, cx);
            }
            _ => self.fatal(&PgError::fatal("XX000", "unexpected answer of the control plane"), cx),
        }
    }

    fn ask_password(&mut self, role: Option<Role>, cx: &mut Cx<'_>) {
        let method = match cx.env.config.authentication.client_auth {
            ConfiguredAuth::Trust => Method::Trust,
            ConfiguredAuth::Password => Method::Password,
            ConfiguredAuth::Md5 => Method::Md5,
            ConfiguredAuth::ScramSha256 => Method::ScramSha256,
        };
        if method == Method::Trust {
            if role.is_none() {
                let e = PgError::fatal("28000", format!("role \"{}\" does not exist", self.user));
                return self.fatal(&e, cx);
            }
            self.credentials = match role.map(|r| r.secret) {
                Some(Secret::Plain(p)) => crate::auth::Credentials::Plain(Arc::from(p.as_str())),
                Some(Secret::Md5(h)) => crate::auth::Credentials::Md5(Arc::from(h.as_str())),
                _ => crate::auth::Credentials::None,
            };
            return self.open_lane(cx);
        }
        let mut random = [0u8; 40];
        cx.io.random(&mut random);
        let (mut auth, first) = ClientAuth::with_mock_secret(method, &self.user, role, random, &cx.env.mock_secret);
        auth.limit_iterations(cx.env.config.authentication.scram_max_iterations);
        self.stage = Stage::Password(Box::new(auth));
        self.out.push(Bytes::from(first));
        self.pump(cx);
    }

    /// A message of the password exchange.
    pub(super) fn password_frame(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        if frame.tag != b'p' {
            if frame.tag == b'X' {
                self.end(cx);
            } else {
                let e = format!("expected password response, got message type {}", frame.tag);
                self.fatal(&PgError::fatal("08P01", e), cx);
            }
            return true;
        }
        let Stage::Password(auth) = &mut self.stage else { return false };
        match auth.on_message(frame.body()) {
            Step::Send(bytes) => self.out.push(Bytes::from(bytes)),
            Step::Done { send, credentials } => {
                self.out.push(Bytes::from(send));
                self.credentials = credentials;
                self.open_lane(cx);
            }
            Step::Fail(e) => {
                let (user, peer, reason) = (Name(&self.user), Host(self.peer), e.log_detail().unwrap_or("-"));
                tracing::info!(%user, %peer, reason, "authentication failed");
                self.fatal(&PgError::fatal(e.sqlstate(), e.message()), cx);
            }
        }
        true
    }

    /// The client is who it says: its backend on main is opened, which checks the database and the rest.
    pub(super) fn open_lane(&mut self, cx: &mut Cx<'_>) {
        if let Some(welcome) = self.known_welcome(cx) {
            self.std_strings = !welcome.iter().any(|(n, v)| n == "standard_conforming_strings" && v == "off");
            self.welcome = Some(welcome);
            return self.wait_for_catalogue(cx);
        }
        self.stage = Stage::Lane;
        if cx.env.membership.is_held() {
            // Opened when main is known.
            return;
        }
        match self.have_backend(Self::main_node(cx), Target::Lane, cx) {
            Had::Ready(link) => {
                self.take_over_lane(link, cx);
                if self.lane_is_usable() {
                    self.lane_ready(cx);
                }
            }
            Had::Opening(link) => self.lane = Some(link),
            Had::None => {}
        }
    }

    /// Begins to connect to a node in the client's name. `apply`: for scripts, with settings of its own.
    pub(super) fn open_link(&mut self, node: NodeId, target: Target, purpose: LinkFor, cx: &mut Cx<'_>) -> Link {
        let conn = cx.io.connect(node);
        self.new_link(conn, node, target, purpose, cx)
    }

    /// The same on a connection that has begun to open.
    pub(super) fn new_link(
        &mut self,
        conn: ConnId,
        node: NodeId,
        target: Target,
        purpose: LinkFor,
        cx: &mut Cx<'_>,
    ) -> Link {
        let mut options = String::from(NO_TIMEOUTS);
        let (apply_user, apply_password) = cx.env.config.apply_login();
        let (user, credentials) = match (purpose, apply_password.expose()) {
            (LinkFor::Client | LinkFor::Scripts, _) => (&*self.user, self.credentials.clone()),
            (LinkFor::Image, "") => (apply_user, Credentials::None),
            (LinkFor::Image, password) => (apply_user, Credentials::Plain(Arc::from(password))),
        };
        let mut parameters: Vec<(&str, &str)> = vec![("user", user), ("database", &self.database)];
        if purpose != LinkFor::Client {
            options.push_str(" -c statement_timeout=0 -c lock_timeout=0");
            let superuser = self.lane.as_ref().and_then(|l| l.parameter("is_superuser")) == Some("on");
            if superuser || purpose == LinkFor::Image {
                let ms = cx.env.config.apply.deadlock_timeout.as_millis();
                options.push_str(&format!(" -c deadlock_timeout={ms}ms"));
            }
            parameters.push(("application_name", "pglockstep applier"));
        } else {
            for (n, v) in self.startup.iter().filter(|(n, _)| n != "options") {
                parameters.push((n, v));
            }
            if let Some((_, client)) = self.startup.iter().find(|(n, _)| n == "options") {
                // The client's own come last: what it asks for wins.
                options = format!("{options} {client}");
            }
            if target == Target::Reader {
                options.push_str(" -c default_transaction_read_only=on");
            }
        }
        parameters.push(("options", &options));
        let mut nonce = [0u8; 18];
        cx.io.random(&mut nonce);
        let limits = (cx.env.max_message_size(), cx.env.config.authentication.scram_max_iterations);
        Link::new(node, conn, user, &parameters, credentials, nonce, limits)
    }

    /// Messages of the lane's login.
    pub(super) fn lane_login(&mut self, cx: &mut Cx<'_>) {
        loop {
            let Some(lane) = &mut self.lane else { return };
            let piece = match lane.framer.next_piece() {
                Ok(Some(p)) => p,
                Ok(None) => return,
                Err(e) => return self.fatal(&super::link::violation(&e.to_string()), cx),
            };
            let mut reply = Vec::new();
            let login = lane.login(&piece, &mut reply);
            let conn = lane.conn;
            for b in reply {
                cx.io.send(conn, b);
            }
            match login {
                Login::More => {}
                Login::Ready => {
                    self.lane_ready(cx);
                    return self.pump(cx);
                }
                // It is starting, stopping or recovering: another one may take its place.
                Login::Refused { raw, fields } if matches!(fields.sqlstate.as_str(), "57P03" | "57P01" | "57P02") => {
                    self.farewell = Some(raw);
                    cx.io.abort(conn);
                    return self.lane_gone(&fields.message, cx);
                }
                Login::Refused { raw, fields } => {
                    let (user, database) = (Name(&self.user), Name(&self.database));
                    tracing::info!(%user, %database, error = %fields.message, "main refused the login");
                    self.out.push(raw);
                    return self.end(cx);
                }
                Login::Failed(e) => return self.fatal(&e, cx),
            }
        }
    }

    pub(super) fn lane_ready(&mut self, cx: &mut Cx<'_>) {
        self.remember_welcome(cx);
        self.snapshots.stale = true;
        if matches!(self.stage, Stage::Ready) {
            return self.lane_reopened(cx);
        }
        if let Some(lane) = &self.lane {
            self.std_strings = lane.parameter("standard_conforming_strings") != Some("off");
        }
        self.wait_for_catalogue(cx);
    }

    fn wait_for_catalogue(&mut self, cx: &mut Cx<'_>) {
        if self.has_catalogue(cx) {
            return self.begin_queries(cx);
        }
        self.stage = Stage::Catalogue;
    }

    /// Tells the client what main told the lane, with a cancel key of the proxy's own. What it has sent already is looked
    /// at by whoever called (a message of its own may be under way here).
    pub(super) fn begin_queries(&mut self, cx: &mut Cx<'_>) {
        let mut out = BytesMut::with_capacity(1024);
        out.extend_from_slice(back::AUTHENTICATION_OK);
        let told = match (&self.lane, &self.welcome) {
            (Some(lane), _) => &lane.parameters[..],
            (None, Some(welcome)) => &welcome[..],
            (None, None) => &[],
        };
        for (name, value) in told {
            out.extend_from_slice(&back::parameter_status(name, value));
        }
        self.told = told.to_vec();
        back::backend_key_data(&mut out, self.cancel_key.0, self.cancel_key.1);
        self.out.push(out.freeze());
        self.registry.batch_ends();
        self.ready(cx);
        self.stage = Stage::Ready;
        self.admitted = true;
        self.framer.set_limit(cx.env.max_message_size());
        self.framer.cut_copy_data();
        self.log_start(cx);
        let limit = cx.env.config.limits.client_idle_limit;
        if !limit.is_zero() {
            cx.io.arm(limit, TimerKind::Idle);
        }
    }

    /// authentication_timeout has passed before the client could ask its first question.
    pub(super) fn authentication_timed_out(&mut self, cx: &mut Cx<'_>) {
        let peer = Host(self.peer);
        match self.stage {
            Stage::Lane | Stage::Catalogue => {
                tracing::warn!(user = %Name(&self.user), %peer, "main did not answer within authentication_timeout");
                let e = PgError::fatal("57P03", "main did not answer the login within authentication_timeout");
                self.fatal(&e, cx);
            }
            // PostgreSQL says nothing to a client that is too slow; its log does.
            _ => {
                tracing::info!(%peer, "canceling authentication due to timeout");
                self.end(cx);
            }
        }
    }
}

/// What a start-up packet's `replication` asks for (`ProcessStartupPacket` in postmaster.c, `parse_bool` in bool.c); `None`:
/// nothing that there is.
fn wants_replication(value: &str) -> Option<bool> {
    if value == "database" {
        return Some(true);
    }
    let value = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || value == "1" {
        return Some(true);
    }
    (begins("false", 1) || begins("no", 1) || begins("off", 2) || value == "0").then_some(false)
}

#[cfg(test)]
mod tests {
    use super::wants_replication;

    #[test]
    fn replication_is_asked_for_in_every_spelling_that_the_server_knows() {
        for yes in ["database", "true", "T", "on", "yes", "1"] {
            assert_eq!(wants_replication(yes), Some(true), "{yes}");
        }
        for no in ["false", "f", "off", "of", "NO", "0"] {
            assert_eq!(wants_replication(no), Some(false), "{no}");
        }
        for neither in ["", "o", "Database", "2", "truex"] {
            assert_eq!(wants_replication(neither), None, "{neither}");
        }
    }
}
