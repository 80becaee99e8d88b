//! Why a driver cannot run on this machine, and what would change that.

use std::fs;
use std::io;

use rustix::process::{Resource, getrlimit};

/// What a driver needs, for the texts below.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Needs {
    /// The driver's name in the configuration.
    pub driver: &'static str,
    /// The first kernel that has everything.
    pub kernel: &'static str,
    /// Locked memory.
    pub memory_lock: &'static str,
}

/// Why a driver cannot run here, and what would change that.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// A feature is missing from this kernel.
    #[error(
        "kernel {kernel} is too old for the {} driver: {feature} needs {since} or newer; it runs on {} or newer", needs.driver, needs.kernel
    )]
    KernelTooOld {
        /// What the driver needs.
        needs: Needs,
        /// `uname -r`.
        kernel: String,
        /// The missing feature, as the kernel's documentation names it.
        feature: &'static str,
        /// The first kernel that has it.
        since: &'static str,
    },
    /// The kernel was built without io_uring, or a filter pretends so (ENOSYS).
    #[error(
        "io_uring does not exist on kernel {kernel} (ENOSYS): the {} driver needs {} or newer built with CONFIG_IO_URING, and no system call filter that hides it (gVisor and some container runtimes do)", needs.driver, needs.kernel
    )]
    Missing {
        /// What the driver needs.
        needs: Needs,
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
    #[error("io_uring may not lock enough memory: RLIMIT_MEMLOCK is {}, the {} driver needs {}, and all processes of this user share it; raise it to 8 MiB or more (`ulimit -l`, LimitMEMLOCK= in the systemd unit, --ulimit memlock= in Docker) or grant CAP_IPC_LOCK", limit_text(*.limit_bytes), needs.driver, needs.memory_lock)]
    MemoryLock {
        /// What the driver needs.
        needs: Needs,
        /// The limit now; `None`: unlimited, so that it is plainly memory that ran out.
        limit_bytes: Option<u64>,
    },
    /// Something else.
    #[error("io_uring does not work on kernel {kernel} as the {} driver needs it: {step}: {source}", needs.driver)]
    Other {
        /// What the driver needs.
        needs: Needs,
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

/// The cause behind an error of the kernel.
pub(super) fn explain(needs: Needs, step: &'static str, source: io::Error) -> Unavailable {
    classify(needs, step, source, disabled_sysctl())
}

/// As [`explain`], with the value of `kernel.io_uring_disabled` (`None`: this kernel has no such switch).
fn classify(needs: Needs, step: &'static str, source: io::Error, disabled: Option<u32>) -> Unavailable {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => match disabled {
            Some(value @ 1..) => Unavailable::SwitchedOff { value },
            Some(0) | None => Unavailable::Denied { source },
        },
        Some(libc::ENOSYS) => Unavailable::Missing { needs, kernel: kernel() },
        Some(libc::ENOMEM) => Unavailable::MemoryLock { needs, limit_bytes: memory_lock() },
        _ => Unavailable::Other { needs, kernel: kernel(), step, source },
    }
}

/// This kernel lacks a feature.
pub(super) fn too_old(needs: Needs, feature: &'static str, since: &'static str) -> Unavailable {
    Unavailable::KernelTooOld { needs, kernel: kernel(), feature, since }
}

/// As `uname -r` says it.
pub(super) fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| "(unknown)".to_string(), |s| s.trim().to_string())
}

/// RLIMIT_MEMLOCK in bytes; `None`: unlimited.
pub(super) fn memory_lock() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}

/// Since Linux 6.6.
fn disabled_sysctl() -> Option<u32> {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs = Needs { driver: "ring", kernel: "6.1", memory_lock: "256 KiB" };

    fn text(errno: i32, disabled: Option<u32>) -> String {
        classify(NEEDS, "io_uring_setup", io::Error::from_raw_os_error(errno), disabled).to_string()
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
        assert!(too_old(NEEDS, "x", "6.1").to_string().contains("x needs 6.1 or newer"));
    }
}
