"""What was measured, as tables in Markdown."""

import statistics

HEAD = (
    "| | events/s | MB/s | to the barest | lost | daemon's CPU us/event | senders' CPU us/event "
    "| memory MiB | disk bytes/payload byte |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def median(runs, of):
    values = [of(run) for run in runs]
    return statistics.median(values)


def number(value):
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def lost(runs):
    """Nothing, or what was wrong in the worst of the runs."""
    words = []
    names = (("missing", "lost"), ("repeated", "twice"), ("misordered", "out of order"), ("alien", "altered"))
    for name, said in names:
        worst = max(run["found"][name] for run in runs)
        if worst:
            words.append(f"{worst:,} {said}")
    return ", ".join(words) or "0"


def summary(runs):
    """Medians of the runs of one subject."""
    middle = {
        "events_per_second": median(runs, lambda r: r["events"] / r["seconds"]),
        "megabytes_per_second": median(runs, lambda r: r["bytes"] / r["seconds"] / 1e6),
        "cpu_us_per_event": median(runs, lambda r: r["cpu_us"] / r["events"]),
        "disk_bytes_per_byte": median(runs, lambda r: r["disk_bytes"] / r["bytes"]),
    }
    if "found" in runs[0]:
        middle |= {
            "lost": lost(runs),
            "sender_cpu_us_per_event": median(runs, lambda r: r["sender_cpu_us"] / r["events"]),
            "memory_mib": median(runs, lambda r: r["memory_bytes"] / (1 << 20)),
        }
    return middle


def barest_of(subject, summaries):
    """The rate of the barest program that gets its events in the same way. Subjects that get them in a way which the
    barest does not know are compared with the barest that takes lines."""
    kind = "datagrams" if "datagrams" in subject.title else "lines"
    found = summaries.get(f"floor: barest {kind}")
    return found["events_per_second"] if found else None


def row(subject, summaries, errors):
    if subject.title in errors:
        return f"| {subject.title} | {errors[subject.title]} | | | | | | | |"
    if subject.title not in summaries:
        return None
    s = summaries[subject.title]
    base = barest_of(subject, summaries)
    cells = [
        subject.title,
        f"{s['events_per_second']:,.0f}",
        number(s["megabytes_per_second"]),
        f"{s['events_per_second'] / base:.2f}" if base else "",
        s.get("lost", ""),
        number(s["cpu_us_per_event"]),
        number(s["sender_cpu_us_per_event"]) if "sender_cpu_us_per_event" in s else "",
        number(s["memory_mib"]) if "memory_mib" in s else "",
        number(s["disk_bytes_per_byte"]),
    ]
    return "| " + " | ".join(cells) + " |"


def table(workload, subjects, results, errors):
    summaries = {title: summary(runs) for title, runs in results.items()}
    rows = [row(subject, summaries, errors) for subject in subjects]
    return "\n".join([f"## Events of {workload.name}\n", HEAD, *[r for r in rows if r]]) + "\n"


def heading(workloads, chosen):
    kinds = " and ".join(f"{workload.events:,} of {workload.name}" for workload in workloads)
    if chosen.quick:
        return f"A trial, not to be quoted: one run of each, of up to {kinds}.\n"
    return f"Medians of {chosen.runs} alternating runs, of up to {kinds}; who is slow gets fewer events.\n"


def machine(facts):
    return "\n".join(f"* {name}: {value}" for name, value in facts.items()) + "\n"
