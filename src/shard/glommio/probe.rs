//! Can the glommio driver run here? Asked before glommio is, which ends the process or panics where it cannot.

use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode};

use super::GlommioDriver;
use crate::shard::driver::{Driver, DriverOptions, Event, Time};
use crate::shard::listen::Listener;
use crate::shard::unavailable::{self, Needs, Unavailable};

/// What the glommio driver needs.
const GLOMMIO: Needs = Needs { driver: "glommio", kernel: "5.8", memory_lock: "512 KiB" };

/// The limit of locked memory below which glommio makes no executor.
const MEMORY_LOCK_MIN: u64 = 512 * 1024;

/// How long glommio may take to serve the probe's client.
const PATIENCE: Duration = Duration::from_secs(5);

/// Operations without which glommio ends the process, with the kernel that brought them.
const OPERATIONS: [(u8, &str, &str); 23] = [
    (opcode::Nop::CODE, "IORING_OP_NOP", "5.1"),
    (opcode::Readv::CODE, "IORING_OP_READV", "5.1"),
    (opcode::Writev::CODE, "IORING_OP_WRITEV", "5.1"),
    (opcode::Fsync::CODE, "IORING_OP_FSYNC", "5.1"),
    (opcode::ReadFixed::CODE, "IORING_OP_READ_FIXED", "5.1"),
    (opcode::WriteFixed::CODE, "IORING_OP_WRITE_FIXED", "5.1"),
    (opcode::PollAdd::CODE, "IORING_OP_POLL_ADD", "5.1"),
    (opcode::PollRemove::CODE, "IORING_OP_POLL_REMOVE", "5.1"),
    (opcode::SendMsg::CODE, "IORING_OP_SENDMSG", "5.3"),
    (opcode::RecvMsg::CODE, "IORING_OP_RECVMSG", "5.3"),
    (opcode::Timeout::CODE, "IORING_OP_TIMEOUT", "5.4"),
    (opcode::TimeoutRemove::CODE, "IORING_OP_TIMEOUT_REMOVE", "5.5"),
    (opcode::Accept::CODE, "IORING_OP_ACCEPT", "5.5"),
    (opcode::LinkTimeout::CODE, "IORING_OP_LINK_TIMEOUT", "5.5"),
    (opcode::Connect::CODE, "IORING_OP_CONNECT", "5.5"),
    (opcode::Fallocate::CODE, "IORING_OP_FALLOCATE", "5.6"),
    (opcode::OpenAt::CODE, "IORING_OP_OPENAT", "5.6"),
    (opcode::Close::CODE, "IORING_OP_CLOSE", "5.6"),
    (opcode::Statx::CODE, "IORING_OP_STATX", "5.6"),
    (opcode::Read::CODE, "IORING_OP_READ", "5.6"),
    (opcode::Write::CODE, "IORING_OP_WRITE", "5.6"),
    (opcode::Send::CODE, "IORING_OP_SEND", "5.6"),
    (opcode::Recv::CODE, "IORING_OP_RECV", "5.6"),
];

/// Tries what glommio needs, then glommio itself: a client that is accepted, heard and answered. Leaves nothing behind.
pub(super) fn probe() -> Result<String, Unavailable> {
    memory_lock()?;
    let io: IoUring = IoUring::builder().build(4).map_err(|error| explain("io_uring_setup", error))?;
    if !io.params().is_feature_nodrop() {
        return Err(too_old("completions that are never dropped (IORING_FEAT_NODROP)", "5.5"));
    }
    let mut probe = Probe::new();
    io.submitter().register_probe(&mut probe).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => too_old("IORING_REGISTER_PROBE", "5.6"),
        _ => explain("IORING_REGISTER_PROBE", error),
    })?;
    if let Some((_, name, since)) = OPERATIONS.iter().find(|(code, ..)| !probe.is_supported(*code)) {
        return Err(too_old(name, since));
    }
    // Glommio makes one for disks, whether there are any or not.
    let polled: io::Result<IoUring> = IoUring::builder().setup_iopoll().build(4);
    polled.map_err(|error| explain("io_uring_setup with IORING_SETUP_IOPOLL", error))?;
    // On a thread of its own: the executor takes what the thread of the caller may have pinned or be running.
    match thread::spawn(exchange).join() {
        Ok(Ok(())) => Ok(format!("io_uring on kernel {}: one-shot polls, send and receive", unavailable::kernel())),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(explain("running an executor", io::Error::other("it has panicked"))),
    }
}

/// The driver with one client, on a socket that has no name in the file system.
fn exchange() -> Result<(), Unavailable> {
    let failed = |error| explain("serving a client", error);
    let mut name = [0; 16];
    getrandom::fill(&mut name).map_err(|error| failed(error.into()))?;
    let address = SocketAddr::from_abstract_name(name).map_err(failed)?;
    let listener = UnixListener::bind_addr(&address).map_err(failed)?;
    let listeners = vec![Listener::Unix(listener)];
    let mut driver = GlommioDriver::new(DriverOptions { listeners, ..DriverOptions::default() })?;
    let mut client = UnixStream::connect_addr(&address).map_err(failed)?;
    client.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    client.write_all(b"probe").map_err(failed)?;
    let (end, mut events) = (driver.now().after(PATIENCE), Vec::new());
    while driver.now() < end {
        driver.wait(Some(end), &mut events).map_err(failed)?;
        for event in events.drain(..) {
            let Event::Received { conn, bytes } = event else { continue };
            driver.send(conn, bytes);
            driver.wait(Some(Time::default()), &mut Vec::new()).map_err(failed)?;
            let mut answer = [0; 5];
            client.read_exact(&mut answer).map_err(failed)?;
            return if answer == *b"probe" { Ok(()) } else { Err(failed(io::ErrorKind::InvalidData.into())) };
        }
    }
    Err(failed(io::ErrorKind::TimedOut.into()))
}

/// Glommio's own condition.
pub(super) fn memory_lock() -> Result<(), Unavailable> {
    match unavailable::memory_lock() {
        Some(limit) if limit < MEMORY_LOCK_MIN => {
            Err(Unavailable::MemoryLock { needs: GLOMMIO, limit_bytes: Some(limit) })
        }
        _ => Ok(()),
    }
}

pub(super) fn explain(step: &'static str, error: io::Error) -> Unavailable {
    unavailable::explain(GLOMMIO, step, error)
}

fn too_old(feature: &'static str, since: &'static str) -> Unavailable {
    unavailable::too_old(GLOMMIO, feature, since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_runs_the_tests_passes_the_probe() {
        let words = probe().expect("these tests need io_uring");
        assert!(words.contains("io_uring on kernel "), "{words}");
    }
}
