"""One measurement: pgbench for some seconds, its throughput, its latencies, and whose processor time that took."""

import glob
import math
import os
import re
import subprocess
import time

from .system import Failure, machine_busy_seconds, our_children_seconds, tree_seconds

PERCENTILES = (50, 95, 99)
# Seconds for the backends of a pgbench that has ended to be gone, so that their end counts for it and not for the next.
SETTLE = 0.3


def percentile(ordered, percent):
    """The nearest-rank percentile of an ordered list."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def summary_of(latencies):
    """Mean and percentiles in microseconds."""
    if not latencies:
        return None
    latencies.sort()
    figures = {"mean": sum(latencies) / len(latencies)}
    return {**figures, **{f"p{p}": percentile(latencies, p) for p in PERCENTILES}}


def read_latencies(pattern):
    """Microseconds of every transaction that succeeded: the third column of pgbench's log, a word for a failure."""
    found = []
    for name in glob.glob(pattern):
        with open(name, encoding="utf-8") as file:
            found += [int(word) for line in file if (word := line.split(" ", 3)[2]).isdigit()]
        os.remove(name)
    return found


def number(pattern, text, default=None):
    """The number that `pattern` finds in pgbench's report."""
    match = re.search(pattern, text)
    if match is None and default is None:
        raise Failure(f"pgbench's report has no {pattern!r}: {text.strip()[-300:]}")
    return float(match.group(1)) if match else default


class Bench:
    """Runs pgbench for contenders; its logs live in `directory` for the time of a measurement only."""

    def __init__(self, cluster, directory, jobs):
        self.cluster, self.directory, self.jobs = cluster, directory, jobs

    def pgbench(self, contender, cell, seconds, logged):
        """Runs one pgbench per target of the contender, all at once; their reports. Bounded by -T and a time-out."""
        workload, protocol, clients = cell
        running = []
        jobs = min(clients, self.jobs)
        try:
            for number_of_target, port in enumerate(contender.targets):
                command = [os.path.join(self.cluster.bin, "pgbench"), "-n", "-b", workload, "-M", protocol]
                command += ["-c", str(clients), "-j", str(jobs), "-T", str(seconds)]
                command += ["-h", "127.0.0.1", "-p", str(port), "-U", contender.user]
                if logged:
                    command += ["-l", "--log-prefix", os.path.join(self.directory, f"log{number_of_target}")]
                running.append(subprocess.Popen(
                    command + [contender.database], env=self.cluster.environment(), stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.directory,
                ))
            end = time.monotonic() + seconds + 30
            reports = []
            for child in running:
                try:
                    out, errors = child.communicate(timeout=max(1, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    raise Failure(f"pgbench did not end within {seconds} + 30 s: something hangs") from None
                if child.returncode:
                    lines = [line for line in errors.splitlines() if "error" in line or "FATAL" in line]
                    raise Failure("pgbench failed: " + " / ".join(lines[:3] or [f"status {child.returncode}"]))
                reports.append(out)
            return reports
        finally:
            for child in running:
                if child.poll() is None:
                    child.kill()
                    child.communicate()

    def measure(self, contender, network, cell, seconds, warmup):
        """The figures of one measurement, in the form in which --json writes them."""
        self.cluster.tidy(contender.database, contender.nodes())
        if warmup:
            self.pgbench(contender, cell, warmup, logged=False)
        groups = self.process_groups(contender, network)
        time.sleep(SETTLE)
        busy, before = machine_busy_seconds(), self.processor_seconds(groups)
        reports = self.pgbench(contender, cell, seconds, logged=True)
        time.sleep(SETTLE)
        after, busy = self.processor_seconds(groups), machine_busy_seconds() - busy
        latencies = read_latencies(os.path.join(self.directory, "log*"))
        # Of several servers that all do the same, the mean is how many transactions are done everywhere.
        copies = len(reports)
        done = sum(number(r"actually processed: (\d+)", report) for report in reports) / copies
        tps = sum(number(r"tps = ([\d.]+) \((?:without|excluding)", report) for report in reports) / copies
        failed = sum(number(r"failed transactions: (\d+)", report, 0.0) for report in reports) / copies
        if done == 0 or not latencies:
            raise Failure("not one transaction was done")
        used = {name: after[name] - before[name] for name in before}
        return {
            "tps": tps,
            "transactions": done,
            "failed": failed,
            "latency_us": summary_of(latencies),
            "cpu_us": {name: used[name] * 1e6 / done for name in used},
            "others_cpu_s": max(0.0, busy - sum(used.values())),
        }

    def process_groups(self, contender, network):
        """Roots of process trees by what they are."""
        main, *replicas = self.cluster.nodes
        return {
            "proxy": [contender.proxy_pid()] if contender.proxy_pid() else [],
            "main": [main.pid],
            "replicas": [node.pid for node in replicas],
            "relay": [network.relay.pid] if network.relay else [],
        }

    @staticmethod
    def processor_seconds(groups):
        """Processor seconds so far of each group and of the pgbench processes that have ended."""
        pgbench = our_children_seconds()
        trees = tree_seconds([pid for pids in groups.values() for pid in pids])
        return {**{name: sum(trees[pid] for pid in pids) for name, pids in groups.items()}, "pgbench": pgbench}
