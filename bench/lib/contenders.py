"""Who is compared: each contender says where pgbench connects, and starts and stops what stands in between."""

import os
import re
import signal
import subprocess
import time

from .cluster import ROLE
from .system import (
    Failure, accepts, environment, find_program, free_port, server_account, spawn, stop, tail, wait_until,
    write_private,
)

SELECT_ONLY = "select-only"


class Network:
    """How contenders reach the nodes: straight, or through a relay that delays each direction by half of `delay_ms`."""

    def __init__(self, cluster, delay_ms, relay_program, directory):
        self.cluster, self.delay_ms = cluster, delay_ms
        self.name = f"{delay_ms:g} ms" if delay_ms else "plain"
        self.relay_program = relay_program
        self.directory = os.path.join(directory, self.name.replace(" ", "-"))
        self.ports = [node.port for node in cluster.nodes]
        self.relay = None

    def __enter__(self):
        os.mkdir(self.directory)
        if self.delay_ms:
            self.ports = [free_port() for _ in self.cluster.nodes]
            log = os.path.join(self.directory, "relay.log")
            pairs = [f"{port}:{node.port}" for port, node in zip(self.ports, self.cluster.nodes)]
            half = str(round(self.delay_ms * 1000 / 2))
            # It ends when the other end of its standard input closes.
            self.relay = spawn([self.relay_program, half, *pairs], log, stdin=subprocess.PIPE)
            wait_until(lambda: accepts(self.ports[-1]), self.relay, "the delay relay", log)
        return self

    def __exit__(self, *_):
        if self.relay:
            self.relay.stdin.close()
            stop(self.relay)


class Contender:
    """One way to run pgbench. `prepare` makes its database once; `start` and `stop` frame one network."""

    name = ""
    database = ""
    user = ROLE
    used_nodes = (0, 1, 2)
    replicates = False  # whether its database must be identical on all nodes in the end

    def __init__(self, cluster, options):
        self.cluster, self.options = cluster, options
        self.proxy = None

    def supports(self, workload, protocol):
        """Whether this combination makes sense for it."""
        return True

    def nodes(self):
        """The nodes that hold its database."""
        return [node for node in self.cluster.nodes if node.id in self.used_nodes]

    def prepare(self):
        """Makes and fills its database."""
        self.cluster.make_database(self.database, self.nodes())

    def start(self, network):
        """Starts what stands between pgbench and the nodes, and sets `targets`: the ports for pgbench."""
        raise NotImplementedError

    def stop(self):
        """Ends what `start` has started."""
        if self.proxy:
            stop(self.proxy)
            self.proxy = None

    def proxy_pid(self):
        """The root of the proxy's process tree, or None."""
        return self.proxy.pid if self.proxy else None

    def version(self):
        """What it is, for the report; None where the servers' version says it."""
        return None

    def end_of_log(self):
        """The last lines of its log, for an error message."""
        return ""


class Direct(Contender):
    """pgbench straight against node 0: what there is without any replication."""

    name, database, used_nodes = "direct", "bench_direct", (0,)

    def start(self, network):
        self.targets = network.ports[:1]


class TripleDirect(Contender):
    """The same pgbench at the same time against each of the three servers: what doing everything everywhere costs."""

    name, database = "triple direct", "bench_triple"

    def start(self, network):
        self.targets = network.ports


class Service(Contender):
    """A proxy that is a program of its own with a configuration file of its own."""

    program, package = "", ""

    def __init__(self, cluster, options):
        super().__init__(cluster, options)
        self.path = find_program(self.program, "/usr/sbin", "/usr/local/sbin", "/usr/local/bin")
        self.log = None

    def directory(self, network):
        """A directory that the servers' account may write to."""
        path = os.path.join(network.directory, self.name.replace(" ", "-"))
        os.mkdir(path, 0o700)
        if account := server_account():
            os.chown(path, *account)
        return path

    def run(self, network, command_of, text, port, end_by=signal.SIGTERM):
        """Writes the configuration, starts the program under the servers' account and waits until it answers."""
        directory = self.directory(network)
        file = os.path.join(directory, f"{self.program}.conf")
        write_private(file, text.replace("@DIR@", directory))
        account = server_account()
        if account:
            os.chown(file, *account)
        self.log = os.path.join(network.directory, f"{self.name.replace(' ', '-')}.log")
        self.proxy = spawn(command_of(file), self.log, end_by, account, cwd=directory)
        self.targets = [port]
        wait_until(lambda: self.answers(port), self.proxy, self.name, self.log)

    def answers(self, port):
        """Whether a query through it is answered."""
        if not accepts(port):
            return False
        command = [os.path.join(self.cluster.bin, "psql"), "-XqAt", "-h", "127.0.0.1", "-p", str(port)]
        command += ["-U", self.user, "-d", self.database, "-c", "SELECT 1"]
        try:
            done = subprocess.run(command, env=self.cluster.environment(), capture_output=True, text=True, timeout=10,
                                  stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return False
        return done.stdout.strip() == "1"

    def version(self):
        done = subprocess.run([self.path, "--version"], capture_output=True, text=True, env=environment())
        return (done.stdout + done.stderr).strip().splitlines()[0]

    def end_of_log(self):
        return tail(self.log) if self.log else ""


PGPOOL = """\
# bench/compare: Pgpool-II with native replication.
backend_clustering_mode = 'native_replication'
listen_addresses = '127.0.0.1'
port = {port}
socket_dir = '@DIR@'
pcp_listen_addresses = '127.0.0.1'
pcp_port = {pcp_port}
pcp_socket_dir = '@DIR@'
wd_ipc_socket_dir = '@DIR@'
pid_file_name = '@DIR@/pgpool.pid'
logdir = '@DIR@'
log_min_messages = warning

# A process per client, each with one set of connections; none is recycled during a measurement.
num_init_children = {children}
max_pool = 1
child_life_time = 0
connection_life_time = 0
enable_pool_hba = off
pool_passwd = ''

load_balance_mode = on
replicate_select = off
# A node that answers late stays: a comparison of two nodes against three would be none.
failover_on_backend_error = off
health_check_period = 0
memory_cache_enabled = off
use_watchdog = off
"""

PGPOOL_NODE = """
backend_hostname{id} = '127.0.0.1'
backend_port{id} = {port}
backend_weight{id} = 1
backend_flag{id} = 'DISALLOW_TO_FAILOVER'
"""


class Pgpool(Service):
    """Pgpool-II in native replication mode over the three servers; reads are balanced over them."""

    name, database, replicates = "Pgpool-II", "bench_pgpool", True
    program, package = "pgpool", "pgpool2"

    def start(self, network):
        port = free_port()
        text = PGPOOL.format(port=port, pcp_port=free_port(), children=self.options.most_clients + 4)
        text += "".join(PGPOOL_NODE.format(id=id, port=node) for id, node in enumerate(network.ports))
        # -n: in the foreground; -D: no memory of earlier runs. Its fast shutdown is SIGINT.
        self.run(network, lambda file: [self.path, "-n", "-D", "-f", file], text, port, signal.SIGINT)

    def stop(self):
        if self.proxy:
            stop(self.proxy, (signal.SIGINT, 10), (signal.SIGQUIT, 5))
            self.proxy = None


PGBOUNCER = """\
; bench/compare: PgBouncer, {mode} pooling, in front of node 0.
[databases]
{database} = host=127.0.0.1 port={node} dbname={database} user={role} pool_size={pool}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
; any: whoever connects is logged in as the role above.
auth_type = any
pool_mode = {mode}
max_client_conn = {clients}
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
"""


class PgBouncer(Service):
    """PgBouncer in front of node 0: a pooler that does not replicate, so for reads only."""

    database, used_nodes = "bench_direct", (0,)
    program, package = "pgbouncer", "pgbouncer"
    mode = ""

    def prepare(self):
        pass  # it reads the direct contender's database

    def supports(self, workload, protocol):
        return workload == SELECT_ONLY

    def pool_size(self):
        """Server connections."""
        raise NotImplementedError

    def start(self, network):
        port = free_port()
        text = PGBOUNCER.format(mode=self.mode, database=self.database, node=network.ports[0], role=ROLE, port=port,
                                pool=self.pool_size(), clients=self.options.most_clients + 10)
        self.run(network, lambda file: [self.path, file], text, port)

    def stop(self):
        if self.proxy:
            stop(self.proxy, (signal.SIGINT, 3), (signal.SIGTERM, 3))
            self.proxy = None


class PgBouncerSession(PgBouncer):
    """One server connection per client, all protocols."""

    name, mode = "PgBouncer session", "session"

    def pool_size(self):
        return self.options.most_clients + 2


class PgBouncerTransaction(PgBouncer):
    """Server connections shared between transactions. Named statements need PgBouncer 1.21: not with -M prepared."""

    name, mode = "PgBouncer transaction", "transaction"

    def supports(self, workload, protocol):
        return super().supports(workload, protocol) and protocol != "prepared"

    def pool_size(self):
        return 20  # PgBouncer's default


class Pglockstep(Service):
    """pglockstep: on the plain network the sandbox's own proxy, else one with the relay's ports for nodes."""

    name, database, replicates = "pglockstep", "bench_pglockstep", True
    program = "pglockstep"

    def __init__(self, cluster, options):
        super().__init__(cluster, options)
        self.path, self.user = cluster.program, cluster.summary["user"]
        self.sandbox_proxy = True

    def prepare(self):
        port = self.cluster.summary["port"]
        self.cluster.psql(port, [f"CREATE DATABASE {self.database}"])
        self.cluster.fill(self.database, port)

    def start(self, network):
        if network.delay_ms == 0 and self.sandbox_proxy:
            self.targets = [self.cluster.summary["port"]]
            self.log = os.path.join(self.cluster.root, "pglockstep.log")
            return
        self.cluster.stop_proxy()
        self.sandbox_proxy = False
        directory = os.path.join(network.directory, self.name)
        os.mkdir(directory, 0o700)
        with open(os.path.join(self.cluster.root, "pglockstep.toml"), encoding="utf-8") as file:
            text = file.read()
        port = free_port()
        config = os.path.join(directory, "pglockstep.toml")
        ports = dict(zip((node.port for node in self.cluster.nodes), network.ports))
        write_private(config, moved(text, port, free_port(), os.path.join(directory, "work"), ports))
        os.mkdir(os.path.join(directory, "work"), 0o700)
        self.log = os.path.join(network.directory, "pglockstep.log")
        self.targets = [port]
        # The nodes may hold the former proxy's lock for a moment.
        end = time.monotonic() + 15
        while True:
            self.proxy = spawn([self.path, "run", "-c", config], self.log)
            try:
                wait_until(lambda: self.answers(port), self.proxy, self.name, self.log)
                return
            except Failure:
                if self.proxy.poll() is None or time.monotonic() > end:
                    raise
                time.sleep(1)

    def stop(self):
        if self.proxy:
            stop(self.proxy, (signal.SIGTERM, 5), (signal.SIGTERM, 3))
            self.proxy = None

    def proxy_pid(self):
        return self.proxy.pid if self.proxy else self.cluster.summary["pid"]


def moved(text, port, pcp_port, work_dir, node_ports):
    """The sandbox's configuration with other ports and another work_dir; line by line, as the sandbox writes it."""
    table, lines = "", []
    for line in text.splitlines():
        if header := re.match(r"\[+([^\]]+)\]+", line):
            table = header.group(1)
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            pass
        elif (table, key) == ("listen", "port"):
            line = f"port = {port}"
        elif (table, key) == ("listen", "pcp_port"):
            line = f"pcp_port = {pcp_port}"
        elif (table, key) == ("cluster", "work_dir"):
            line = f'work_dir = "{work_dir}"'
        elif (table, key) == ("node", "backend_port"):
            line = f"backend_port = {node_ports[int(value)]}"
        lines.append(line)
    return "\n".join(lines) + "\n"


CONTENDERS = (Direct, TripleDirect, Pgpool, PgBouncerSession, PgBouncerTransaction, Pglockstep)
