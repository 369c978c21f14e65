"""The demo model's greater-than task with every year, and where in the model it happens."""

from examples.keeping import Place, Unit, by_variance, rows_of, seen
from tl_transcoders import Spliced
from tl_transcoders.circuits import Circuit, Feature, Head, ProbDiff
from tl_transcoders.circuits.nodes import at
from tl_transcoders.circuits.tasks import Task
from tl_transcoders.demo.data import prompt_tokens
from tl_transcoders.demo.vocabulary import two_digit_ids

YY, END = 8, 12
MOVER = Head(1, 2)
READER = Place(0, YY)
WRITERS = [Place(layer, END) for layer in (1, 2, 3)]


def year_pairs() -> Task:
    """One prompt for every YY from 02 to 98, and the same prompt with 01."""
    tokens, years = prompt_tokens()
    base, ids = tokens[1:], two_digit_ids().tolist()
    return Task(
        name="greater_than, every year",
        base=base,
        source=tokens[:1].repeat(len(base), 1),
        metric=ProbDiff([(ids[year + 1 :], ids[: year + 1]) for year in years[1:].tolist()]),
        positions={"YY": YY, "end": END},
    )


def circuit_of(spliced: Spliced, task: Task, n: int) -> Circuit:
    """Heads of layer 0 and n features of MLP 0 at YY, a1.h2 and n features of MLP 3 at the end."""
    heads = [*(Head(0, head, pos=YY) for head in range(spliced.model.cfg.n_heads)), at(MOVER, END)]
    units: list[Unit] = []
    for place in (READER, WRITERS[-1]):
        carried = seen(spliced.model, task, [place.hook])
        units += by_variance(carried, [place], rows_of(spliced))[:n]
    return Circuit([*heads, *(Feature(place.layer, i, pos=place.pos) for place, i in units)])
