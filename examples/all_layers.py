"""Skip transcoders for all 30 MLPs of SmolLM2-135M, trained from one stream of activations.

`python -m examples.all_layers` trains TopK-32 skip transcoders of 2,304 features on 524,288 tokens, goes on where a
stopped run was, and prints the tokens, the wall time and the FVU of every layer on held-out text.
"""

import time
from typing import Annotated

import typer
from rich.console import Console
from transformer_lens.model_bridge import TransformerBridge

import tl_transcoders as tlt
from examples.cache import cache_root
from examples.real_models import load_bridge, smollm2
from examples.smollm2_splice import BOS, prompts, train

N_TOKENS, N_FEATURES, K = 524_288, 2304, 32
FOLDER = cache_root() / "smollm2-all-layers"
console = Console(width=120)


def main(n_tokens: Annotated[int, typer.Option(help="tokens to train on")] = N_TOKENS) -> None:
    """Train, save and measure."""
    started = time.perf_counter()
    model = load_bridge(smollm2())
    transcoders = trained(model, n_tokens)
    minutes = (time.perf_counter() - started) / 60
    held_out, _ = prompts(model, n_tokens)
    with tlt.splice(model, transcoders, exclude=[BOS]) as spliced:
        report = tlt.evaluate(spliced, held_out[:16], progress=True)
    console.print(report)
    print(report.markdown())
    console.print(
        f"{n_tokens:,} training tokens in {minutes:.1f} min; held out: {held_out[:16].numel():,} tokens"
    )


def trained(model: TransformerBridge, n_tokens: int = N_TOKENS) -> tlt.TranscoderSet:
    """The transcoders: from disk where they are, else trained, which takes the better part of an hour."""
    folder = FOLDER if n_tokens == N_TOKENS else FOLDER / str(n_tokens)
    ready = folder / "transcoders"
    if not (ready / "transcoders.json").exists():
        layers = list(range(model.cfg.n_layers))
        _, tokens = prompts(model, n_tokens)
        tlt.save(
            train(model, layers, tokens, folder, n_tokens, N_FEATURES, K), ready, overwrite=True
        )
    found = tlt.load(ready)
    assert isinstance(found, tlt.TranscoderSet)
    return found


if __name__ == "__main__":
    typer.run(main)
