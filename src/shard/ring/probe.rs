//! Can the ring driver run here? Tried for real, and if not, which of the many reasons it is.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode};

use super::sys::{self, Completion, Ring, Setup};
use super::tag::{Operation, Tag};
use crate::shard::unavailable::{self, Needs, Unavailable};

/// Operations of [`super::RingDriver`], with the kernel that brought them.
const OPERATIONS: [(u8, &str, &str); 7] = [
    (opcode::PollAdd::CODE, "IORING_OP_POLL_ADD", "5.1"),
    (opcode::SendMsg::CODE, "IORING_OP_SENDMSG", "5.3"),
    (opcode::AcceptMulti::CODE, "IORING_OP_ACCEPT", "5.5"),
    (opcode::AsyncCancel::CODE, "IORING_OP_ASYNC_CANCEL", "5.5"),
    (opcode::Connect::CODE, "IORING_OP_CONNECT", "5.5"),
    (opcode::Send::CODE, "IORING_OP_SEND", "5.6"),
    (opcode::RecvMulti::CODE, "IORING_OP_RECV", "5.6"),
];

/// What the probe needs of memory: little, so that it fails for the kernel's reasons and not for its own size.
const PROBE_SETUP: Setup = Setup { receive_buffers: 2, receive_buffer_size: 4096 };

/// What the ring driver needs.
pub(super) const RING: Needs = Needs { driver: "ring", kernel: "6.1", memory_lock: "256 KiB of it for each shard" };

/// Tries all that the ring driver needs: the ring with its flags, the operations, a ring of buffers, and a multishot
/// receive on a pair of sockets. Leaves nothing behind.
pub(super) fn probe() -> Result<String, Unavailable> {
    let io = probe_setup()?;
    probe_operations(&io)?;
    let ring = Ring::new(io, &PROBE_SETUP).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => too_old("a ring of provided buffers (IORING_REGISTER_PBUF_RING)", "5.19"),
        _ => explain("registering receive buffers", error),
    })?;
    probe_receive(ring)?;
    Ok(format!("io_uring on kernel {}: multishot receive, buffer rings, deferred task work", unavailable::kernel()))
}

/// The ring itself; on EINVAL, finds the flag that this kernel does not know.
fn probe_setup() -> Result<IoUring, Unavailable> {
    let error = match sys::setup() {
        Ok(io) => return Ok(io),
        Err(error) => error,
    };
    if error.raw_os_error() == Some(libc::EINVAL) {
        let unknown =
            |builder: &io_uring::Builder| matches!(builder.build(4), Err(e) if e.raw_os_error() == Some(libc::EINVAL));
        let mut builder = IoUring::builder();
        if unknown(builder.setup_coop_taskrun()) {
            return Err(too_old("cooperative task work (IORING_SETUP_COOP_TASKRUN)", "5.19"));
        }
        if unknown(builder.setup_single_issuer()) {
            return Err(too_old("one submitting thread (IORING_SETUP_SINGLE_ISSUER)", "6.0"));
        }
        if unknown(builder.setup_defer_taskrun()) {
            return Err(too_old("deferred task work (IORING_SETUP_DEFER_TASKRUN)", "6.1"));
        }
    }
    Err(explain("io_uring_setup", error))
}

fn probe_operations(io: &IoUring) -> Result<(), Unavailable> {
    if !io.params().is_feature_ext_arg() {
        return Err(too_old("waiting with a timeout (IORING_FEAT_EXT_ARG)", "5.11"));
    }
    if !io.params().is_feature_nodrop() {
        return Err(too_old("completions that are never dropped (IORING_FEAT_NODROP)", "5.5"));
    }
    let mut probe = Probe::new();
    io.submitter().register_probe(&mut probe).map_err(|error| explain("IORING_REGISTER_PROBE", error))?;
    match OPERATIONS.iter().find(|(code, ..)| !probe.is_supported(*code)) {
        Some((_, name, since)) => Err(too_old(name, since)),
        None => Ok(()),
    }
}

/// Two sends must come out of one multishot receive.
fn probe_receive(mut ring: Ring) -> Result<(), Unavailable> {
    let step = "a multishot receive";
    let (ours, mut theirs) = UnixStream::pair().map_err(|error| explain(step, error))?;
    ring.receive(Tag { operation: Operation::Receive, generation: 0, index: 0 }, ours.as_fd());
    for round in 0..2 {
        io::Write::write_all(&mut theirs, b"probe").map_err(|error| explain(step, error))?;
        ring.enter(Some(Duration::from_secs(1))).map_err(|error| explain(step, error))?;
        match ring.next() {
            Some(Completion::Received { bytes: Ok(bytes), more, .. })
                if &bytes[..] == b"probe" && (more || round > 0) => {}
            Some(Completion::Received { bytes: Err(error), .. }) if error.raw_os_error() == Some(libc::EINVAL) => {
                return Err(too_old("multishot receive (IORING_RECV_MULTISHOT)", "6.0"));
            }
            Some(Completion::Received { bytes: Err(error), .. }) => return Err(explain(step, error)),
            _ => return Err(explain(step, io::Error::other("it did not report what was sent, and go on"))),
        }
    }
    Ok(())
}

fn explain(step: &'static str, error: io::Error) -> Unavailable {
    unavailable::explain(RING, step, error)
}

fn too_old(feature: &'static str, since: &'static str) -> Unavailable {
    unavailable::too_old(RING, feature, since)
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
