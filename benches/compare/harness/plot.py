"""Draws the results: bars on a logarithmic axis, for they are from thousands to tens of millions. SVG by hand,
readable on a light page and on a dark one."""

import math
from xml.sax.saxutils import escape

from . import report

WIDTH, LEFT, RIGHT, BAR, GAP, HEAD, FOOT = 940, 310, 90, 15, 5, 52, 34
STYLE = """
text { font: 12px sans-serif; fill: #24292f; }
.title { font-size: 15px; font-weight: bold; }
.note { font-size: 11px; fill: #57606a; }
.grid { stroke: #d0d7de; stroke-width: 1; }
.floor { fill: #8c959f; } .dbufd { fill: #0969da; } .peer { fill: #bc6c25; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .note { fill: #9198a1; } .grid { stroke: #3d444d; }
  .floor { fill: #848d97; } .dbufd { fill: #4493f8; } .peer { fill: #dd9a52; }
}
"""


def panels(workloads, bench, rows):
    """A title, a unit, and bars of name, kind and value for each panel."""
    made = []
    for workload in workloads:
        mixed = "." in workload.sizes
        key, unit = ("megabytes_per_second", "MB/s") if mixed else ("events_per_second", "events/s")
        bars = []
        for subject in bench.subjects:
            runs = bench.results[workload.name].get(subject.title)
            if runs:
                kind = subject.group if subject.group in ("floor", "dbufd") else "peer"
                bars.append((subject.title, kind, report.summary(runs)[key]))
        title = f"Events of {workload.name}, two producers, until all are in the file"
        made.append((title, unit, sorted(bars, key=lambda b: -b[2])))
    bars = [(row["name"], call_kind(row["name"]), row["median_ns"]) for row in rows if "median_ns" in row]
    made.append(("One call of 100 bytes, in its program: less is better", "ns", sorted(bars, key=lambda b: b[2])))
    return [panel for panel in made if panel[2]]


def call_kind(name):
    return "floor" if name.startswith("clock_gettime") else "dbufd" if "dbuf" in name else "peer"


def short(value):
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def text(x, y, words, of="", anchor="start"):
    kind = f' class="{of}"' if of else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{kind}>{escape(words)}</text>'


def panel(top, title, unit, bars):
    """The elements of a panel, and how high it is."""
    low = math.floor(math.log10(min(value for _, _, value in bars)))
    high = math.ceil(math.log10(max(value for _, _, value in bars)))
    high = max(high, low + 1)
    scale = (WIDTH - LEFT - RIGHT) / (high - low)
    bottom = top + HEAD + len(bars) * (BAR + GAP)
    made = [text(10, top + 22, title, "title"), text(10, top + 40, f"{unit}, logarithmic axis", "note")]
    for power in range(low, high + 1):
        x = LEFT + (power - low) * scale
        made.append(f'<line class="grid" x1="{x:.0f}" y1="{top + HEAD - 4}" x2="{x:.0f}" y2="{bottom}"/>')
        made.append(text(x, bottom + 15, short(10.0**power), "note", "middle"))
    made.append(text(WIDTH - 10, bottom + 15, unit, "note", "end"))
    for at, (name, kind, value) in enumerate(bars):
        y = top + HEAD + at * (BAR + GAP)
        length = max(1, (math.log10(value) - low) * scale)
        made.append(text(LEFT - 8, y + BAR - 3, name, anchor="end"))
        made.append(f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>')
        made.append(text(LEFT + length + 6, y + BAR - 3, short(value)))
    return made, HEAD + len(bars) * (BAR + GAP) + FOOT


def plot(all_panels, facts):
    elements, top = [], 0
    for title, unit, bars in all_panels:
        made, height = panel(top, title, unit, bars)
        elements += made
        top += height
    processor = f"{facts['processor']}, {facts['cores']} cores"
    machine = f"{processor}, {facts['memory']}, {facts['file system']}, Linux {facts['kernel']}"
    x = 10
    for kind, words in (("dbufd", "dbufd"), ("peer", "others"), ("floor", "what the machine allows")):
        elements.append(f'<rect class="{kind}" x="{x}" y="{top + 4}" width="12" height="12" rx="2"/>')
        elements.append(text(x + 18, top + 14, words, "note"))
        x += 40 + 7 * len(words)
    elements.append(text(10, top + 34, machine, "note"))
    height = top + 44
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    title = "<title>dbufd compared with others</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *elements, "</svg>"]) + "\n"
