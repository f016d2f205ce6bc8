"""The second table: what one call costs the program that makes it."""

import json
import os
import statistics

from . import dbufd, lttng, processes

REFERENCE = "dbuf_send, with its time"


def measure(programs, binary, folder, turns):
    """Rows of name, medians and 99th percentiles in ns, or of why there are none."""
    calls = programs.get("calls")
    left_out = [{"name": name, "error": why} for name, why in programs.left_out]
    folder.mkdir()
    # LTTng may need another user, who is to reach what is below.
    folder.chmod(0o711)
    daemon = session = None
    environment, who = dict(os.environ), {}
    try:
        daemon = dbufd.Daemon(binary, folder / "run", folder / "segments")
        try:
            session = lttng.Session(folder / "lttng", folder / "trace", 32)
            environment, who = session.environment, session.who
        except processes.Failure as failure:
            left_out.append({"name": "LTTng-UST: one tracepoint", "error": str(failure)})
        files = folder / "files"
        files.mkdir()
        if who:
            os.chown(files, who["user"], who["group"])
        output = processes.run([calls, files, daemon.runtime, str(turns)], env=environment, timeout=600, **who)
    finally:
        if session:
            session.stop()
        if daemon:
            daemon.stop()
    rows = [json.loads(line) for line in output.splitlines()]
    known = {row["name"] for row in left_out}
    return [summary(row) for row in rows if row["name"] not in known] + left_out


def summary(row):
    if row["error"]:
        return {"name": row["name"], "error": row["error"]}
    batches = sorted(row["ns"])
    return {
        "name": row["name"],
        "batch": row["batch"],
        "batches": len(batches),
        "median_ns": statistics.median(batches),
        "p99_ns": batches[min(len(batches) - 1, len(batches) * 99 // 100)],
    }


def table(rows):
    """In Markdown, with the ratios of medians to that of dbuf_send."""
    base = next((row["median_ns"] for row in rows if row["name"] == REFERENCE and "median_ns" in row), None)
    lines = ["| one call of 100 bytes | median | 99 % | ratio |", "|---|---:|---:|---:|"]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['name']} | {row['error']} | | |")
        else:
            ratio = f"{row['median_ns'] / base:.2f}" if base else ""
            lines.append(f"| {row['name']} | {row['median_ns']:.1f} ns | {row['p99_ns']:.1f} ns | {ratio} |")
    return "\n".join(lines) + "\n"
