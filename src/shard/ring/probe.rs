//! Can the ring driver run here? Tried for real, and if not, which of the many reasons it is.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode};
use rustix::process::{Resource, getrlimit};

use super::sys::{self, Completion, Ring, Setup};
use super::tag::{Operation, Tag};

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

/// The ring driver can run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeReport {
    /// The kernel's release, as `uname -r` says it.
    pub kernel: String,
    /// RLIMIT_MEMLOCK in bytes; `None`: unlimited.
    pub memory_lock_bytes: Option<u64>,
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "io_uring on kernel {}: multishot receive, buffer rings, deferred task work", self.kernel)
    }
}

/// Why the ring driver cannot run here, and what would change that.
#[derive(Debug, thiserror::Error)]
pub enum RingUnavailable {
    /// A feature is missing from this kernel.
    #[error(
        "kernel {kernel} is too old for the ring driver: {feature} needs {since} or newer; upgrade the kernel or use io_driver = \"glommio\""
    )]
    KernelTooOld {
        /// `uname -r`.
        kernel: String,
        /// The missing feature, as the kernel's documentation names it.
        feature: &'static str,
        /// The first kernel that has it.
        since: &'static str,
    },
    /// The kernel was built without io_uring, or a filter pretends so (ENOSYS).
    #[error(
        "io_uring does not exist on kernel {kernel} (ENOSYS): it needs 6.1 or newer built with CONFIG_IO_URING, and no system call filter that hides it (gVisor and some container runtimes do)"
    )]
    Missing {
        /// `uname -r`.
        kernel: String,
    },
    /// The administrator has switched it off.
    #[error("io_uring is switched off: kernel.io_uring_disabled = {value}{}; `sysctl kernel.io_uring_disabled=0` allows it", disabled_meaning(*.value))]
    SwitchedOff {
        /// 1: for unprivileged processes outside `kernel.io_uring_group`; 2: for all.
        value: u32,
    },
    /// A system call filter or security module refuses it, while the sysctl allows it.
    #[error(
        "io_uring is refused ({source}) although kernel.io_uring_disabled allows it: a seccomp filter, as of Docker and containerd, or a security module; run the container with a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Denied {
        /// EPERM or EACCES.
        source: io::Error,
    },
    /// Locked memory ran out.
    #[error("io_uring may not lock enough memory: RLIMIT_MEMLOCK is {}, each shard needs 256 KiB of it, and all processes of this user share it; raise it to 8 MiB or more (`ulimit -l`, LimitMEMLOCK= in the systemd unit, --ulimit memlock= in Docker) or grant CAP_IPC_LOCK", limit_text(*.limit_bytes))]
    MemoryLock {
        /// The limit now; `None`: unlimited, so that it is plainly memory that ran out.
        limit_bytes: Option<u64>,
    },
    /// Something else.
    #[error("io_uring does not work on kernel {kernel}: {step}: {source}")]
    Other {
        /// `uname -r`.
        kernel: String,
        /// What was tried.
        step: &'static str,
        /// What came of it.
        source: io::Error,
    },
}

fn disabled_meaning(value: u32) -> &'static str {
    match value {
        1 => " (only processes with CAP_SYS_ADMIN or in the group kernel.io_uring_group may use it)",
        2 => " (for every process)",
        _ => "",
    }
}

fn limit_text(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "unlimited (so the machine is out of memory)".to_string(), |b| format!("{} KiB", b / 1024))
}

/// Tries all that the ring driver needs: the ring with its flags, the operations, a ring of buffers, and a multishot
/// receive on a pair of sockets. Leaves nothing behind.
pub(super) fn probe() -> Result<ProbeReport, RingUnavailable> {
    let io = probe_setup()?;
    probe_operations(&io)?;
    let ring = Ring::new(io, &PROBE_SETUP).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => too_old("a ring of provided buffers (IORING_REGISTER_PBUF_RING)", "5.19"),
        _ => explain("registering receive buffers", error),
    })?;
    probe_receive(ring)?;
    Ok(ProbeReport { kernel: kernel(), memory_lock_bytes: memory_lock() })
}

/// The ring itself; on EINVAL, finds the flag that this kernel does not know.
fn probe_setup() -> Result<IoUring, RingUnavailable> {
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

fn probe_operations(io: &IoUring) -> Result<(), RingUnavailable> {
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
fn probe_receive(mut ring: Ring) -> Result<(), RingUnavailable> {
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

/// The cause behind an error of the kernel.
pub(super) fn explain(step: &'static str, source: io::Error) -> RingUnavailable {
    classify(step, source, disabled_sysctl())
}

/// As [`explain`], with the value of `kernel.io_uring_disabled` (`None`: this kernel has no such switch).
fn classify(step: &'static str, source: io::Error, disabled: Option<u32>) -> RingUnavailable {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => match disabled {
            Some(value @ 1..) => RingUnavailable::SwitchedOff { value },
            Some(0) | None => RingUnavailable::Denied { source },
        },
        Some(libc::ENOSYS) => RingUnavailable::Missing { kernel: kernel() },
        Some(libc::ENOMEM) => RingUnavailable::MemoryLock { limit_bytes: memory_lock() },
        _ => RingUnavailable::Other { kernel: kernel(), step, source },
    }
}

fn too_old(feature: &'static str, since: &'static str) -> RingUnavailable {
    RingUnavailable::KernelTooOld { kernel: kernel(), feature, since }
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| "(unknown)".to_string(), |s| s.trim().to_string())
}

fn memory_lock() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}

/// Since Linux 6.6.
fn disabled_sysctl() -> Option<u32> {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(errno: i32, disabled: Option<u32>) -> String {
        classify("io_uring_setup", io::Error::from_raw_os_error(errno), disabled).to_string()
    }

    #[test]
    fn a_machine_that_runs_the_tests_passes_the_probe() {
        let report = probe().expect("these tests need io_uring");
        assert!(!report.kernel.is_empty());
    }

    #[test]
    fn each_cause_of_a_refusal_is_named_with_its_remedy() {
        assert!(text(libc::EPERM, Some(2)).contains("kernel.io_uring_disabled = 2 (for every process)"));
        assert!(text(libc::EPERM, Some(1)).contains("kernel.io_uring_group"));
        assert!(text(libc::EPERM, Some(0)).contains("seccomp"));
        assert!(text(libc::EPERM, None).contains("seccomp"));
        assert!(text(libc::ENOSYS, Some(0)).contains("CONFIG_IO_URING"));
        assert!(text(libc::ENOMEM, Some(0)).contains("RLIMIT_MEMLOCK is "));
        assert!(text(libc::EMFILE, Some(0)).contains("io_uring_setup: Too many open files"));
        assert!(too_old("x", "6.1").to_string().contains("x needs 6.1 or newer"));
    }
}
