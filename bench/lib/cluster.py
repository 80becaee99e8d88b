"""The three servers: `pglockstep sandbox`, the settings of a benchmark, one database per contender, row hashes."""

import concurrent.futures
import glob
import json
import os
import re
import signal
import subprocess
import time

from .system import Failure, environment, free_port, spawn, stop, wait_until, write_private

ROLE = "bench"
TABLES = ("pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history")

# One role that logs in without a password from this machine, so that Pgpool-II and PgBouncer need no secrets and the
# direct contenders are on equal terms with them.
HBA_LINE = f"host all {ROLE} 127.0.0.1/32 trust\n"


def server_settings(scale):
    """What the servers get beyond the sandbox's settings: nothing that makes one contender pay for another.

    All databases fit into shared_buffers; checkpoints and vacuum happen between measurements, not in them. fsync and
    synchronous_commit stay on.
    """
    return (
        "\n# bench/compare\n"
        f"shared_buffers = {256 + 80 * scale}MB\n"
        "checkpoint_timeout = 1h\nmax_wal_size = 8GB\nautovacuum = off\n"
    )


def server_programs():
    """The directory with PostgreSQL's programs: the newest that has them all, as the sandbox chooses it."""
    directories = os.environ.get("PATH", "").split(":") + glob.glob("/usr/lib/postgresql/*/bin")
    found = {}
    for directory in directories:
        if all(os.access(os.path.join(directory, p), os.X_OK) for p in ("initdb", "postgres", "psql", "pgbench")):
            text = subprocess.run([os.path.join(directory, "postgres"), "--version"], capture_output=True, text=True)
            found[directory] = int(re.search(r"\) (\d+)", text.stdout + ") 0").group(1))
    if not found:
        raise Failure("PostgreSQL's programs (initdb, postgres, psql, pgbench) are missing: make deps installs them")
    return max(found, key=found.get)


class Node:
    """One server, asked directly."""

    def __init__(self, cluster, description):
        self.cluster = cluster
        self.id = description["id"]
        self.port = description["port"]
        self.pid = description["pid"]
        self.data_directory = description["data_directory"]

    def sql(self, statements, database="postgres"):
        """Runs statements one after the other as the superuser; the output of the last, unaligned."""
        return self.cluster.psql(self.port, statements, database)


class Cluster:
    """A sandbox of three nodes, prepared for measuring. Use it as a context manager."""

    def __init__(self, program, directory, scale, io_driver="auto"):
        self.program, self.scale, self.io_driver = program, scale, io_driver
        self.bin = server_programs()
        self.root = os.path.join(directory, "sandbox")
        self.log = os.path.join(directory, "sandbox.log")
        self.passfile = os.path.join(directory, "passfile")
        self.child = None
        self.nodes = []

    def __enter__(self):
        try:
            self.start()
            self.stop()
            for data in sorted(glob.glob(os.path.join(self.root, "node[0-9]"))):
                self.prepare_files(data)
            self.start()
            for node in self.nodes:
                node.sql([f"CREATE ROLE {ROLE} LOGIN"])
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Starts the sandbox and waits for its line that begins with `ready`."""
        command = [self.program, "sandbox", "--dir", self.root, "--nodes", "3", "--io-driver", self.io_driver]
        command += ["--mode", "native_replication"]
        command += ["--listen", f"127.0.0.1:{free_port()}", "--pcp-port", str(free_port())]
        if os.path.exists(self.log):
            os.remove(self.log)
        self.child = spawn(command, self.log)

        def ready():
            with open(self.log, encoding="utf-8") as file:
                return any(line.startswith("ready") for line in file)

        wait_until(ready, self.child, "pglockstep sandbox", self.log, 180)
        with open(os.path.join(self.root, "sandbox.json"), encoding="utf-8") as file:
            self.summary = json.load(file)
        write_private(self.passfile, f"*:*:*:{self.summary['user']}:{self.summary['password']}\n")
        self.nodes = [Node(self, description) for description in self.summary["nodes"]]

    def stop(self):
        """Stops servers and proxy; the sandbox bounds the time of each step itself."""
        if self.child:
            stop(self.child, (signal.SIGTERM, 60))

    def prepare_files(self, data):
        """Edits a stopped server's files; they keep their owner, being written in place."""
        with open(os.path.join(data, "postgresql.conf"), "a", encoding="utf-8") as file:
            file.write(server_settings(self.scale))
        with open(os.path.join(data, "pg_hba.conf"), "r+", encoding="utf-8") as file:
            rules = file.read()
            file.seek(0)
            file.write(HBA_LINE + rules)

    def stop_proxy(self):
        """Ends the sandbox's proxy; its servers stay. Only one proxy may lead a cluster at a time."""
        pid = self.summary["pid"]

        def alive():
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                return False
            return b"run" in words and os.path.join(self.root, "pglockstep.toml").encode() in words

        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if alive():
                os.kill(pid, number)
            end = time.monotonic() + 5
            while alive() and time.monotonic() < end:
                time.sleep(0.05)
        if alive():
            raise Failure(f"the sandbox's proxy (pid {pid}) does not end")

    def environment(self):
        """What libpq programs need to log in as the superuser."""
        return environment(PGPASSFILE=self.passfile)

    def psql(self, port, statements, database="postgres", seconds=120):
        """Runs statements one after the other as the superuser; the output of the last."""
        command = [os.path.join(self.bin, "psql"), "-XqAt", "-h", "127.0.0.1", "-p", str(port), "-v", "ON_ERROR_STOP=1"]
        command += ["-U", self.summary["user"], "-d", database]
        output = ""
        for statement in statements:
            try:
                done = subprocess.run(command + ["-c", statement], env=self.environment(), capture_output=True,
                                      text=True, timeout=seconds, stdin=subprocess.DEVNULL)
            except subprocess.TimeoutExpired:
                raise Failure(f"no answer from port {port} within {seconds} s to: {statement}") from None
            if done.returncode:
                raise Failure(f"port {port}: {statement}: {done.stderr.strip()}")
            output = done.stdout.strip()
        return output

    def each(self, work, nodes=None):
        """Does `work(node)` on several nodes at once; the results in the nodes' order."""
        nodes = self.nodes if nodes is None else nodes
        with concurrent.futures.ThreadPoolExecutor(len(nodes)) as pool:
            return list(pool.map(work, nodes))

    def fill(self, database, port):
        """Makes pgbench's tables in `database` at `port` (a node's, or the proxy's)."""
        command = [os.path.join(self.bin, "pgbench"), "-i", "-q", "-s", str(self.scale), "-h", "127.0.0.1"]
        command += ["-p", str(port), "-U", self.summary["user"], database]
        seconds = 60 + 15 * self.scale
        try:
            done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=seconds,
                                  stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise Failure(f"pgbench -i on port {port} took longer than {seconds} s") from None
        if done.returncode:
            raise Failure(f"pgbench -i on port {port}: {tail_text(done.stderr)}")

    def make_database(self, database, nodes):
        """Makes and fills `database` on each of `nodes`, directly."""
        def make(node):
            node.sql([f"CREATE DATABASE {database}"])
            self.fill(database, node.port)
            self.grant(database, node.port)
        self.each(make, nodes)

    def grant(self, database, port):
        """Lets the benchmark's role use the tables."""
        self.psql(port, [f"GRANT ALL ON {', '.join(TABLES)} TO {ROLE}"], database)

    def tidy(self, database, nodes):
        """What autovacuum and checkpoints would do in the middle of a measurement, done before it."""
        def work(node):
            node.sql([f"VACUUM ANALYZE {', '.join(TABLES)}"], database)
            node.sql(["CHECKPOINT"])
        self.each(work, nodes)

    def fingerprints(self, database):
        """Per node, per table: (rows, sum of 64 bits of every row's MD5). Equal means the same rows in any order."""
        def work(node):
            found = {}
            for table in TABLES:
                row_hash = "('x' || left(md5(t::text), 16))::bit(64)::bigint::numeric"
                found[table] = node.sql([f"SELECT count(*), sum({row_hash}) FROM {table} t"], database)
            return found
        return self.each(work)

    def settings(self):
        """The servers' settings that decide what a commit costs, as node 0 has them."""
        names = "'fsync', 'synchronous_commit', 'full_page_writes', 'wal_level', 'shared_buffers', 'server_version'"
        rows = self.nodes[0].sql([f"SELECT name, current_setting(name) FROM pg_settings WHERE name IN ({names})"])
        return dict(row.split("|") for row in rows.splitlines())


def tail_text(text):
    """The last lines of an error output."""
    return " / ".join(text.strip().splitlines()[-3:])
