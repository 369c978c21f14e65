"""Cross-layer against per-layer transcoders: the same features, data and steps; graphs of the same prompts.

`python -m examples.cross_layer` does it on the demo model, with the shipped transcoders. `--model smollm2` trains
both kinds for twelve MLPs of SmolLM2-135M first (1,024 features, TopK-16, 65,536 tokens in batches of 1,024) and goes
on where a stopped run was. Every prompt begins with the token that separates SmolLM2's documents, which is left to
the original MLPs.

`path length` is the mean number of edges of the ways from embeddings to the predictions, weighted by influence;
MLPs without a transcoder count as errors.
"""

import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from statistics import mean
from typing import Annotated, Any, Final

import torch
import typer
from jaxtyping import Int
from rich.console import Console
from rich.table import Table
from torch import Tensor

import tl_transcoders as tlt
from examples.cache import cache_root
from examples.real_models import load_bridge, smollm2
from examples.smollm2_splice import BOS, prompts
from tl_transcoders.demo import load_model, load_transcoders
from tl_transcoders.demo.data import training_tokens
from tl_transcoders.training import train_cross_layer
from tl_transcoders.training.checkpoint import has_checkpoint

LAYERS: Final = tuple(range(9, 21))
N_TOKENS: Final = 65_536
N_PROMPTS: Final = 8
LENGTH: Final = 16
FOLDER: Final = cache_root() / "smollm2-cross-layer"
console = Console(width=120)
Spliceable = tlt.TranscoderSet | tlt.CrossLayerTranscoder


class Model(StrEnum):
    """Which model."""

    DEMO = "demo"
    SMOLLM2 = "smollm2"


def main(
    model: Annotated[Model, typer.Option(help="the model")] = Model.DEMO,
    n_tokens: Annotated[int, typer.Option(help="tokens to train SmolLM2's on")] = N_TOKENS,
) -> None:
    """Train where needed, and compare."""
    if model is Model.DEMO:
        host: Any = load_model()
        kinds = {"per layer": load_transcoders("topk"), "cross-layer": load_transcoders("clt")}
        held_out = training_tokens(64, seed=-2)
        compare(host, kinds, held_out, held_out[:N_PROMPTS, :-1])
        return
    host = load_bridge(smollm2())
    held_out, training = prompts(host, n_tokens)
    kinds = {
        "per layer": trained(host, "per-layer", training, n_tokens),
        "cross-layer": trained(host, "cross-layer", training, n_tokens),
    }
    compare(host, kinds, held_out[:8], held_out[:N_PROMPTS, :LENGTH], exclude=[BOS])


def trained(model: Any, kind: str, tokens: Int[Tensor, "prompt pos"], n_tokens: int) -> Spliceable:
    """From disk where it is, else trained."""
    ready = FOLDER / f"{kind}-{n_tokens}"
    if not (ready / "transcoders.json").exists():
        started = time.perf_counter()
        checkpoints = FOLDER / f"checkpoints-{kind}-{n_tokens}"
        config = tlt.TrainConfig(
            n_features=1024,
            activation=tlt.TopK(16),
            n_tokens=n_tokens,
            batch_size=1024,
            exclude=(BOS,),
            checkpoint=str(checkpoints),
            checkpoint_every=16,
        )
        run: Callable[..., Any] = tlt.train if kind == "per-layer" else train_cross_layer
        resume = checkpoints if has_checkpoint(checkpoints) else None
        found = run(model, layers=LAYERS, config=config, tokens=tokens, resume=resume)
        tlt.save(found, ready, overwrite=True)
        console.print(f"{kind}: {(time.perf_counter() - started) / 60:.1f} min")
    found = tlt.load(ready)
    assert isinstance(found, Spliceable)
    return found


def compare(
    model: Any,
    kinds: dict[str, Spliceable],
    text: Int[Tensor, "prompt pos"],
    asked: Int[Tensor, "prompt short"],
    exclude: Sequence[int] = (),
) -> None:
    """What the model keeps with each kind, and the mean scores of their graphs."""
    columns = ("loss", "KL", "replacement score", "completeness", "path length", "active features")
    table = Table("", *columns)
    for name, transcoders in kinds.items():
        with tlt.splice(model, transcoders, exclude=exclude) as spliced:
            report = tlt.evaluate(spliced, text)
        with tlt.splice(model, transcoders, error="keep", exclude=exclude) as spliced:
            graphs = [tlt.attribution_graph(spliced, prompt) for prompt in asked]
        cells = [
            report.spliced.loss,
            report.spliced.kl,
            mean(graph.replacement_score for graph in graphs),
            mean(graph.completeness_score for graph in graphs),
            mean(graph.path_length for graph in graphs),
            mean(float(graph.nodes.is_a("feature").sum()) for graph in graphs),
        ]
        table.add_row(name, *(f"{cell:.3f}" for cell in cells))
    console.print(table)


if __name__ == "__main__":
    torch.manual_seed(0)
    typer.run(main)
