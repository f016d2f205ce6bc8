"""Draws latencies: how long the slowest share of events took, on two logarithmic axes. SVG by hand, readable on a light
page and on a dark one."""

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, RIGHT, HEAD, LINE = 940, 420, 70, 20, 40, 18
COLOURS = ["#0969da", "#1a7f37", "#bc6c25", "#8250df", "#cf222e", "#0a7ea4", "#9a6700", "#bf3989", "#57606a", "#116329"]
STYLE = """
text { font: 12px sans-serif; fill: #24292f; }
.title { font-size: 15px; font-weight: bold; }
.grid { stroke: #d0d7de; stroke-width: 1; }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3; } .grid { stroke: #3d444d; } }
"""
# The share of events that took longer, from half of them on.
SHARE_MAX = 0.5


def draw(curves):
    """`curves` has sorted microseconds by name."""
    curves = {name: values for name, values in curves.items() if values}
    longest = max((values[-1] for values in curves.values()), default=1)
    shortest = min((values[0] for values in curves.values()), default=1)
    fewest = 1 / max((len(values) for values in curves.values()), default=2)
    low, high = math.floor(math.log10(max(shortest, 1))), math.ceil(math.log10(max(longest, 10)))
    decades = max(math.log10(SHARE_MAX / fewest), 0.1)
    bottom = HEAD + HEIGHT

    def x_of(share):
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log10(SHARE_MAX / share) / decades

    def y_of(us):
        return bottom - HEIGHT * (math.log10(max(us, 1)) - low) / (high - low)

    height = bottom + 40 + LINE * len(curves)
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">']
    parts.append(f"<title>How long until an event is persisted</title><style>{STYLE}</style>")
    title = "How long until an event is persisted, and acknowledged: percentiles"
    parts.append(f'<text x="10" y="22" class="title">{title}</text>')
    for exponent in range(low, high + 1):
        y, unit = y_of(10**exponent), (f"{10**exponent:g} us" if exponent < 3 else f"{10 ** (exponent - 3):g} ms")
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.0f}" x2="{WIDTH - RIGHT}" y2="{y:.0f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{unit}</text>')
    for percent, share in (("50 %", 0.5), ("90 %", 0.1), ("99 %", 0.01), ("99.9 %", 0.001), ("99.99 %", 0.0001)):
        if share >= fewest:
            parts.append(f'<text x="{x_of(share):.0f}" y="{bottom + 18}" text-anchor="middle">{percent}</text>')
    for number, (name, values) in enumerate(curves.items()):
        colour, count = COLOURS[number % len(COLOURS)], len(values)
        # Each value is what so large a share of events exceeded, or were.
        half = [(x_of((count - index) / count), y_of(us)) for index, us in enumerate(values) if index >= count / 2]
        # More points than the drawing has columns only make it large.
        step = max(len(half) // WIDTH, 1)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*half[::step], half[-1]])
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points}"/>')
        y = bottom + 40 + LINE * number
        ends = f'x1="{LEFT}" y1="{y - 4}" x2="{LEFT + 24}" y2="{y - 4}"'
        parts.append(f'<line {ends} stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{LEFT + 32}" y="{y}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])
