"""Processes, ports and processor time, by the operating system alone.

Every child is tied to us: it is told to end when we are gone, however that happens, and lives in a process group of its
own, so that Ctrl-C reaches only us and the order of stopping stays ours.
"""

import ctypes
import os
import pwd
import resource
import shutil
import signal
import socket
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class Failure(Exception):
    """Something a person should read: what is wrong and what to do next."""


def server_account():
    """(uid, gid) that servers run under, or None for our own: PostgreSQL, Pgpool-II and PgBouncer refuse root."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise Failure("the servers refuse to run as root, and there is neither a user postgres nor nobody to run them as")


def environment(**extra):
    """Our environment without stray PG... variables: a PGPORT of the caller is not for the children."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C", "PGSSLMODE": "disable", "PGCONNECT_TIMEOUT": "10", **extra}


def spawn(command, log, end_by=signal.SIGTERM, account=None, **options):
    """Starts a child that is told to end (`end_by`) when we are gone; its output goes to the file `log`."""
    us = os.getpid()

    def tie():
        LIBC.prctl(PR_SET_PDEATHSIG, int(end_by))
        if os.getppid() != us:  # we had gone before the line above
            os._exit(1)

    if account:
        options.update(user=account[0], group=account[1], extra_groups=[])
    options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("env", environment())
    with open(log, "ab", opener=private_opener) as out:
        return subprocess.Popen(
            command, stdout=out, stderr=out, start_new_session=True, preexec_fn=tie, **options
        )


def private_opener(path, flags):
    """For open(): only the owner may read, as logs and configurations can hold passwords."""
    return os.open(path, flags, 0o600)


def write_private(path, text):
    """Writes a file that only its owner can read."""
    with open(path, "w", encoding="utf-8", opener=private_opener) as file:
        file.write(text)


def stop(child, *signals):
    """Ends a child of ours: each (signal, seconds to wait) in turn, then SIGKILL to its process group."""
    for number, seconds in signals or ((signal.SIGTERM, 5),):
        if child.poll() is not None:
            return
        child.send_signal(number)
        try:
            child.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            pass
    os.killpg(child.pid, signal.SIGKILL)  # it leads its group and is not waited for yet: the number is still its own
    child.wait(10)


TAKEN = set()


def free_port():
    """A port on 127.0.0.1 below the range for outgoing connections, handed out once."""
    for port in range(20_000 + os.getpid() * 7 % 10_000, 32_000):
        if port in TAKEN:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        TAKEN.add(port)
        return port
    raise Failure("no free port between 20000 and 32000 on 127.0.0.1")


def tail(path, lines=8):
    """The last lines of a log, for an error message."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return "\n".join(file.read().splitlines()[-lines:])
    except OSError:
        return ""


def wait_until(ready, child, what, log, seconds=30):
    """Polls `ready()` until true. A child that ends, or too long a wait, fails with the end of its log."""
    end = time.monotonic() + seconds
    while not ready():
        if child.poll() is not None:
            raise Failure(f"{what} ended at once (status {child.returncode}):\n{tail(log)}")
        if time.monotonic() > end:
            raise Failure(f"{what} was not ready within {seconds} s:\n{tail(log)}")
        time.sleep(0.1)


def accepts(port):
    """Whether somebody listens on 127.0.0.1:port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


# Processor time.

def read_stat(pid):
    """(parent's pid, seconds of its own, seconds of children it has waited for), or None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    # proc(5): fields from the third on: state ppid ... utime(14) stime(15) cutime(16) cstime(17)
    own, waited = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return int(fields[1]), own / TICKS, waited / TICKS


def tree_seconds(roots):
    """Processor seconds of each root's whole process tree, children that have ended included.

    A backend that ends moves from the living children to its parent's waited-for time; a whole tree only ever grows.
    """
    stats = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := read_stat(int(name))):
            stats[int(name)] = stat
    children = {}
    for pid, (parent, _, _) in stats.items():
        children.setdefault(parent, []).append(pid)

    def total(pid):
        if pid not in stats:
            return 0.0
        return stats[pid][1] + stats[pid][2] + sum(total(child) for child in children.get(pid, ()))

    return {root: total(root) for root in roots}


def our_children_seconds():
    """Processor seconds of our own children that have ended (pgbench, while it is measured)."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def machine_busy_seconds():
    """Processor seconds that the whole machine has been busy: tells whether others disturb."""
    with open("/proc/stat", encoding="utf-8") as file:
        user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + irq + softirq) / TICKS


def find_program(name, *more):
    """The path of a program in PATH or in one of the directories `more`, or None."""
    return shutil.which(name) or next((p for d in more if os.access(p := os.path.join(d, name), os.X_OK)), None)
