"""Tables and curves as text."""

from collections.abc import Iterable, Sequence

from torch import Tensor

BARS = "▁▂▃▄▅▆▇█"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; numbers get three decimals."""
    lines = [header, ["---"] * len(header), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def sparkline(values: Tensor, width: int = 25) -> str:
    """Values as a row of `width` bars, each the mean of neighbours, from the lowest of them to the highest."""
    means = [float(part.mean()) for part in values.tensor_split(width)]
    low, span = min(means), (max(means) - min(means)) or 1.0
    return "".join(BARS[round((mean - low) / span * (len(BARS) - 1))] for mean in means)


def _cell(cell: object) -> str:
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
