"""The greater-than study on SmolLM2-135M, whose tokenizer gives every digit a token of its own.

Its transcoders (`python -m examples.smollm2_splice`) stand in 6 of 30 layers, so that this is the part of the circuit
they can show. `python -m examples.greater_than --model smollm2` runs it.
"""

from dataclasses import replace
from typing import Any, Final, get_args

import torch
from jaxtyping import Int
from torch import Tensor

import tl_transcoders as tlt
from examples.keeping import Place, StandIn, by_variance, curve, rows_of, seen
from examples.real_models import load_bridge, smollm2
from examples.smollm2_splice import BOS, FOLDER
from examples.text_tables import sparkline, table
from tl_transcoders.circuits import Head, Run, capture
from tl_transcoders.circuits.patching import AllHeads, sweep
from tl_transcoders.circuits.tasks import Task, gate, greater_than_digit, require
from tl_transcoders.circuits.tasks.greater_than import Digit

PROMPTS: Final = 32
SIZES: Final = (0, 10, 30, 100, 300)


def study() -> None:
    """The study of both digits."""
    model, transcoders = load_bridge(smollm2()), tlt.load(FOLDER / "transcoders")
    for digit in get_args(Digit):
        task = digit_pairs(model, digit)
        places = [Place(layer, task.positions[digit]) for layer in transcoders]
        print(f"## {digit}: {model.to_string(task.base[0])!r}\n", require(model, task), sep="\n")
        with tlt.splice(model, transcoders, exclude=[BOS]) as spliced:
            print("with transcoders, without their errors:", gate(spliced, task), end="\n\n")
            print(features(spliced, task, places), end="\n\n")
        with tlt.splice(model, transcoders, exclude=[BOS], error="keep") as spliced:
            base, source = capture(spliced, task.base), capture(spliced, task.source)
            print(heads(base, source, task), end="\n\n")
        print(curves(model, transcoders, task, places), flush=True)


def digit_pairs(model: Any, digit: Digit) -> Task:
    """The pairs of the task behind the token that separates SmolLM2's documents, which the transcoders expect."""
    task = greater_than_digit(model.tokenizer, n=PROMPTS, digit=digit, prepend_bos=False)
    places = {name: pos + 1 for name, pos in task.positions.items()}
    return replace(task, base=opened(task.base), source=opened(task.source), positions=places)


def opened(tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch later"]:
    """Prompts with that token in front."""
    return torch.cat([torch.full((len(tokens), 1), BOS), tokens], dim=1)


def heads(base: Run, source: Run, task: Task) -> str:
    """The heads that matter most to the logits when MLPs may run between, and where they look from the end."""
    asked: dict[str, Any] = {"receivers": ["logits"], "metric": task.metric, "freeze": "wang"}
    found = sweep(base.spliced, base, source, senders=[AllHeads()], **asked)
    looks = [name for name in task.positions if name in ("decade", "unit")]
    rows = []
    for node, effect in found.top(5):
        assert isinstance(node, Head)
        pattern = base.values["pattern", node.layer][:, node.head, -1].mean(0)
        seen_at = (float(pattern[task.positions[name]]) for name in looks)
        rows.append((f"a{node.layer}.h{node.head}", effect, *seen_at))
    return table(["head", "effect", *(f"attention to {name}" for name in looks)], rows)


def features(spliced: tlt.Spliced, task: Task, places: list[Place]) -> str:
    """The features that vary most at the digit, by digit 1 … 8."""
    model, decoders = spliced.model, rows_of(spliced)
    carried = seen(model, task, [place.hook for place in places])
    digits = [model.tokenizer.convert_tokens_to_ids(str(digit)) for digit in range(10)]
    at_digit = task.base[:, places[0].pos]
    rows = []
    for place, i in by_variance(carried, places, decoders)[:8]:
        activation = carried[place.hook][:, place.pos, i]
        by_digit = torch.stack([activation[at_digit == digit].mean() for digit in digits[1:9]])
        rows.append((f"f{place.layer}.{i}", sparkline(by_digit, 8), float(by_digit.max())))
    return table(["feature", "mean activation at 1 … 8", "largest"], rows)


def curves(model: Any, transcoders: tlt.TranscoderSet, task: Task, places: list[Place]) -> str:
    """The metric with only n features, or n neurons, kept at the digit in all layers that have transcoders."""
    names, columns = [place.hook for place in places], {}
    neurons = {place.layer: model.blocks[place.layer].mlp.W_out for place in places}
    for stand_in in get_args(StandIn):
        asked: dict[str, Any] = {"sizes": SIZES, "stand_in": stand_in}
        ranked = by_variance(seen(model, task, names), places, neurons)
        columns[f"neurons, {stand_in}"] = curve(model, task, ranked, **asked)
        with tlt.splice(model, transcoders, exclude=[BOS]) as spliced:
            ranked = by_variance(seen(model, task, names), places, rows_of(spliced))
            columns[f"features, {stand_in}"] = curve(model, task, ranked, **asked)
    return table(["kept", *columns], zip(SIZES, *columns.values(), strict=True))
