//! Sessions on a real PostgreSQL server, started for these tests alone.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use pglockstep::sandbox::client::{Client, Target};
use pglockstep::sandbox::process::{Account, Interrupt, free_ports};
use pglockstep::sandbox::servers::{Programs, Server as Process, make_clusters, stop_all};

use super::play;

/// The server.
pub struct Server {
    process: Vec<Process>,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Server {
    pub fn start() -> Server {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let root = directory.path().join("real");
        std::fs::create_dir(&root).unwrap();
        let account = Account::for_servers().unwrap();
        account.own(&root).unwrap();
        let (programs, interrupt) = (Programs::find().unwrap(), Interrupt::default());
        let data = root.canonicalize().unwrap().join("data");
        make_clusters(&programs, &account, std::slice::from_ref(&data), "secret", &interrupt).unwrap();
        std::fs::write(data.join("pg_hba.conf"), "host all all 127.0.0.1/32 trust\n").unwrap();
        let mut conf = std::fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).unwrap();
        conf.write_all(b"fsync = off\ndeadlock_timeout = 500ms\ntimezone = 'Etc/UTC'\nautovacuum = off\nmax_prepared_transactions = 10\n").unwrap();
        let port = free_ports(1).unwrap()[0];
        let mut process = Process::new(0, port, data);
        process.spawn(&programs, &account).unwrap();
        process.wait_ready(&interrupt).unwrap();
        Server { process: vec![process], port, _directory: directory }
    }

    fn control(&self) -> Client {
        let target =
            Target { host: "127.0.0.1".into(), port: self.port, user: "postgres".into(), password: "secret".into() };
        Client::connect(&target, "postgres").unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        stop_all(&mut self.process);
    }
}

struct Session {
    /// `None`: the client is gone.
    stream: Option<TcpStream>,
    pid: u32,
    unread: Vec<u8>,
    /// Bytes of a message that has not come whole, for counting only.
    partial: Vec<u8>,
    owed: usize,
    closed: bool,
}

/// One script's sessions, in an empty schema.
pub struct Sessions<'a> {
    server: &'a Server,
    control: Client,
    sessions: BTreeMap<String, Session>,
}

impl<'a> Sessions<'a> {
    pub fn new(server: &'a Server) -> Sessions<'a> {
        let control = server.control();
        for gid in control.rows("SELECT gid FROM pg_prepared_xacts").unwrap() {
            let gid = gid[0].clone().unwrap_or_default();
            control.rows(&format!("ROLLBACK PREPARED '{gid}'")).unwrap();
        }
        control.rows("DROP SCHEMA public CASCADE").unwrap();
        control.rows("CREATE SCHEMA public").unwrap();
        Sessions { server, control, sessions: BTreeMap::new() }
    }

    fn read_all(&mut self) {
        for s in self.sessions.values_mut().filter(|s| !s.closed) {
            let Some(stream) = &mut s.stream else { continue };
            let mut chunk = [0; 16_384];
            loop {
                match stream.read(&mut chunk) {
                    Ok(0) => {
                        s.closed = true;
                        break;
                    }
                    Ok(n) => {
                        s.unread.extend_from_slice(&chunk[..n]);
                        s.partial.extend_from_slice(&chunk[..n]);
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(_) => {
                        s.closed = true;
                        break;
                    }
                }
            }
            while s.partial.len() >= 5 {
                let length = u32::from_be_bytes(s.partial[1..5].try_into().unwrap()) as usize;
                if s.partial.len() < length + 1 {
                    break;
                }
                let message: Vec<u8> = s.partial.drain(..=length).collect();
                match message[0] {
                    b'Z' => s.owed -= 1,
                    b'K' => s.pid = u32::from_be_bytes(message[5..9].try_into().unwrap()),
                    _ => {}
                }
            }
        }
    }

    /// Process ids of those who have been asked something and have not answered.
    fn busy(&self) -> Vec<u32> {
        let busy = |s: &&Session| if s.stream.is_some() { s.owed > 0 && !s.closed } else { !s.closed };
        self.sessions.values().filter(busy).map(|s| s.pid).collect()
    }
}

impl play::Sessions for Sessions<'_> {
    fn open(&mut self, name: &str) {
        let stream = TcpStream::connect(("127.0.0.1", self.server.port)).unwrap();
        stream.set_nonblocking(true).unwrap();
        let session =
            Session { stream: Some(stream), pid: 0, unread: Vec::new(), partial: Vec::new(), owed: 0, closed: false };
        self.sessions.insert(name.to_owned(), session);
    }

    fn send(&mut self, name: &str, bytes: &[u8], awaited: usize) {
        let s = self.sessions.get_mut(name).unwrap();
        s.owed += awaited;
        if s.closed {
            return;
        }
        // A server that has just ended it has reset the connection: reading will tell.
        if let Some(stream) = &mut s.stream {
            let _told_by_read = stream.write_all(bytes);
        }
    }

    /// Who waits for a lock twice in a row, with a pause between, is at rest.
    fn settle(&mut self) {
        let end = Instant::now() + Duration::from_secs(30);
        let mut resting = 0;
        while resting < 2 {
            assert!(Instant::now() < end, "the server does not come to rest");
            std::thread::sleep(Duration::from_millis(3));
            self.read_all();
            let busy = self.busy();
            if busy.is_empty() {
                return;
            }
            let pids: Vec<String> = busy.iter().map(u32::to_string).collect();
            let sql = format!(
                "SELECT pid, coalesce(wait_event_type IN ('Lock', 'Timeout'), false) FROM pg_stat_activity WHERE pid IN ({})",
                pids.join(",")
            );
            let rows = self.control.rows(&sql).unwrap();
            let waits = |pid: &u32| {
                let row = rows.iter().find(|r| r[0].as_deref() == Some(&pid.to_string()));
                row.map(|r| r[1].as_deref() == Some("t"))
            };
            for s in self.sessions.values_mut().filter(|s| s.stream.is_none() && !s.closed) {
                s.closed = waits(&s.pid).is_none();
            }
            // One that is not there (yet, or any more) while its client is will be heard of.
            let quiet = self.busy().iter().all(|pid| waits(pid).unwrap_or(false));
            resting = if quiet { resting + 1 } else { 0 };
        }
        self.read_all();
    }

    fn received(&mut self, name: &str) -> (Vec<u8>, bool) {
        let s = self.sessions.get_mut(name).unwrap();
        (std::mem::take(&mut s.unread), s.closed)
    }

    fn gone(&mut self, name: &str) {
        let s = self.sessions.get_mut(name).unwrap();
        s.stream = None;
    }

    fn terminate(&mut self, name: &str) {
        let pid = self.sessions[name].pid;
        self.control.value(&format!("SELECT pg_terminate_backend({pid}, 5000)")).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        self.read_all();
    }

    fn cancel(&mut self, name: &str) {
        let pid = self.sessions[name].pid;
        self.control.value(&format!("SELECT pg_cancel_backend({pid})")).unwrap();
        // It still looks as if it waited until the signal has arrived.
        std::thread::sleep(Duration::from_millis(50));
    }

    fn tick(&mut self) {
        self.read_all();
        if self.busy().is_empty() {
            return; // nobody waits for a lock
        }
        std::thread::sleep(Duration::from_millis(700));
    }
}
