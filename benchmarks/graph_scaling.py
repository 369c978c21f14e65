"""How the time of an attribution graph grows with the number of its targets.

The model, prompt and transcoders of `benchmarks.attribution_graph`, budgets from 300 features to all 4,800, rounds in
turns, medians. `r2` is how much of the variance of the seconds a straight line in the number of targets explains.
The points and the line go to docs/images/graph_scaling.svg.

`python -m benchmarks.graph_scaling` prints one JSON line last.
"""

import json
import os
import statistics
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import tl_transcoders as tlt
from benchmarks.attribution_graph import LENGTH, Ours, prompt, random_transcoders
from examples.real_models import load_bridge, smollm2

BUDGETS = [300, 600, 1200, 1800, 2400, 3000, 3600, 4200, None]
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "graph_scaling.svg"
WIDTH, HEIGHT, MARGIN = 520, 300, 50


def main(
    rounds: Annotated[int, typer.Option(help="how often every budget")] = 3,
    threads: Annotated[int, typer.Option(help="threads of torch")] = 2,
) -> None:
    """Measure, draw and print."""
    torch.set_num_threads(threads)
    model: Any = load_bridge(smollm2())
    transcoders = random_transcoders(model.cfg.n_layers, model.cfg.d_model)
    first = torch.zeros(1, LENGTH, dtype=torch.bool)
    first[0, 0] = True
    seconds: dict[int, list[float]] = {}
    with tlt.splice(model, transcoders, error="keep", exclude=first) as spliced:
        ours = Ours(spliced, prompt(LENGTH))
        ours.run(BUDGETS[0])
        for _ in range(rounds):
            for budget in BUDGETS:
                found, graph = ours.run(budget)
                targets = int((~graph.value.isnan()).sum())
                seconds.setdefault(targets, []).append(found["seconds"])
    points = {n: statistics.median(times) for n, times in seconds.items()}
    slope, start = statistics.linear_regression(list(points), list(points.values()))
    r2 = statistics.correlation(list(points), list(points.values())) ** 2
    PICTURE.write_text(picture(points, slope, start), encoding="utf-8")
    facts = {
        "benchmark": "graph_scaling",
        "seconds": {str(n): round(t, 2) for n, t in points.items()},
        "milliseconds_a_target": round(1000 * slope, 3),
        "at_none": round(start, 2),
        "r2": round(r2, 4),
        "threads": threads,
        "load_average": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(facts))


def picture(points: dict[int, float], slope: float, start: float) -> str:
    """The points and the line through them."""
    right, top = max(points), max(points.values())

    def at(n: float, t: float) -> tuple[float, float]:
        return MARGIN + n / right * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - t / top * (
            HEIGHT - 2 * MARGIN
        )

    (x0, y0), (x1, y1) = at(0, start), at(right, start + slope * right)
    (left, floor), (end, _) = at(0, 0), at(right, 0)
    dots = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        for x, y in (at(n, t) for n, t in points.items())
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<path d="M{left} {MARGIN / 2}V{floor}H{end + 20}" fill="none" stroke="#888"/>',
        f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="#2166ac"/>',
        *dots,
        f'<text x="{end}" y="{floor + 18}" text-anchor="middle">{right:,}</text>',
        f'<text x="{(left + end) / 2}" y="{floor + 34}" text-anchor="middle">targets</text>',
        f'<text x="{left - 6}" y="{at(0, top)[1] + 4:.1f}" text-anchor="end">{top:.1f} s</text>',
        f'<text x="{left - 6}" y="{floor}" text-anchor="end">0</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    typer.run(main)
