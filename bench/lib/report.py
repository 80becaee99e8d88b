"""Medians over rounds, and their tables: for the terminal, for README, and all raw figures as JSON."""

import json
import os
import platform
import statistics

TITLES = {"tpcb-like": "tpcb-like", "simple-update": "simple-update (-N)", "select-only": "select-only (-S)"}
LATENCIES = ("mean", "p50", "p95", "p99")
PARTS = ("proxy", "main", "replicas", "pgbench")
HEADER = ("contender", "tps", "of direct", *(f"{n} ms" for n in LATENCIES), *(f"{p} µs" for p in PARTS), "failed")


def machine(cluster, contenders):
    """What the figures come from."""
    model = "unknown processor"
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    settings = cluster.settings()
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": platform.release(),
        "load_average_before": os.getloadavg()[0],
        "postgresql": settings.pop("server_version"),
        "server_settings": settings,
        "programs": {c.name: version for c in contenders if (version := c.version())},
    }


def describe(about, options):
    """The machine and the conditions, in a few lines."""
    settings = ", ".join(f"{name} {value}" for name, value in about["server_settings"].items())
    programs = sorted(set(about["programs"].values()))
    return [
        f"{about['cores']} cores ({about['processor']}), {about['memory_gb']} GB, Linux {about['kernel']}; "
        f"load average before the run {about['load_average_before']:.1f}",
        f"PostgreSQL {about['postgresql']}; {'; '.join(programs)}",
        f"{settings}; autovacuum off, checkpoints and VACUUM between measurements",
        "nodes, contenders and pgbench share this machine; the benchmark's role logs in to the nodes without a "
        "password (trust), on pglockstep with SCRAM",
        f"scale {options.scale}, {options.rounds} round{'s' if options.rounds > 1 else ''} of {options.seconds} s, medians; ms: latency; "
        "µs: processor time per transaction of the proxy, node 0 (main), nodes 1 and 2 (replicas), and pgbench",
    ] + ([f"pglockstep with io_driver {options.io_driver}"] if options.io_driver != "auto" else [])


def median_rows(records):
    """{(network, workload, protocol, clients): {contender: medians}}, in the order of measuring."""
    grouped, direct = {}, {}
    for record in records:
        cell = tuple(record[key] for key in ("network", "workload", "protocol", "clients"))
        grouped.setdefault(cell, {}).setdefault(record["contender"], []).append(record)
        if record["contender"] == "direct":
            direct[cell, record["round"]] = record["tps"]
    return {
        cell: {name: medians(found, [direct.get((cell, r["round"])) for r in found]) for name, found in by_name.items()}
        for cell, by_name in grouped.items()
    }


def medians(found, direct):
    """Medians of one contender's records; its share is that of each round's own direct measurement."""
    def median(of):
        return statistics.median(of(record) for record in found)
    shares = [record["tps"] / base for record, base in zip(found, direct) if base]
    return {
        "tps": median(lambda r: r["tps"]),
        "share": statistics.median(shares) if shares else None,
        "latency": {name: median(lambda r, n=name: r["latency_us"][n]) for name in LATENCIES},
        "cpu": {name: median(lambda r, n=name: r["cpu_us"][n]) for name in PARTS},
        "failed": sum(record["failed"] for record in found),
    }


def cells_of(name, row):
    """One line of a table, as text."""
    share = "" if row["share"] is None else f"{row['share']:.0%}"
    latencies = [f"{row['latency'][n] / 1000:.2f}" for n in LATENCIES]
    processor = [f"{row['cpu'][n]:.0f}" for n in PARTS]
    return [name, f"{row['tps']:,.0f}", share, *latencies, *processor, f"{row['failed']:.0f}"]


def heading(cell):
    """`plain network, tpcb-like, simple, 8 clients`."""
    network, workload, protocol, clients = cell
    return f"{network} network, {TITLES[workload]}, {protocol}, {clients} client{'s' if clients > 1 else ''}"


def aligned(lines):
    """Lines of cells as text: the first column to the left, all others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    def text(line):
        return "  ".join(w.ljust(width) if i == 0 else w.rjust(width) for i, (w, width) in enumerate(zip(line, widths)))
    return [text(line).rstrip() for line in lines]


def terminal(rows):
    """All cells with their contenders, columns aligned throughout."""
    lines, heads = [list(HEADER)], {}
    for cell, contenders in rows.items():
        heads[len(lines)] = heading(cell)
        lines += [cells_of(name, row) for name, row in contenders.items()]
    out = []
    for index, line in enumerate(aligned(lines)):
        if index in heads:
            out += ["", heads[index]]
        out.append(line)
    return "\n".join(out)


def markdown(rows, about, options, remarks):
    """For README: the conditions, one table per network, the remarks."""
    out = [f"- {line}" for line in describe(about, options)]
    for network in dict.fromkeys(cell[0] for cell in rows):
        names = ["workload", "protocol", "clients", *HEADER[:-1]]
        out += ["", f"**{network} network**", "", "| " + " | ".join(names) + " |"]
        out.append("|" + "|".join(["---"] * 2 + ["---:"] + ["---"] + ["---:"] * (len(HEADER) - 2)) + "|")
        for (_, workload, protocol, clients), contenders in ((c, r) for c, r in rows.items() if c[0] == network):
            for name, row in contenders.items():
                cells = [TITLES[workload], protocol, str(clients), *cells_of(name, row)[:-1]]
                out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out + [""] + [f"- {remark}" for remark in remarks]) + "\n"


def write_json(path, **parts):
    """All raw figures."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(parts, file, indent=1)
        file.write("\n")
