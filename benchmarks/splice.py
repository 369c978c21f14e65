"""What a spliced forward pass costs over what it cannot avoid.

    overhead       = spliced forward / (forward with the MLPs removed + the 30 encoder products alone)
    cache_overhead = run_with_cache on the feature activations / spliced forward − 1

SmolLM2-135M, all 30 MLPs replaced by TopK-32 transcoders of 4,608 features (random weights: the cost does
not depend on them). The floor per token and layer is the encoder, 2 · 576 · 4,608 = 5.3 MFLOP; TopK reads the
pre-activations once and the decoder gathers 32 rows, 0.04 MFLOP. Rounds are interleaved and medians quoted.

`python -m benchmarks.splice` prints one JSON line last.
"""

import json
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Annotated, Any

import torch
import typer
from tqdm import tqdm

import tl_transcoders as tlt
from examples.real_models import load_bridge, smollm2
from tl_transcoders.splice import Mode

N_FEATURES, K = 4608, 32


def main(
    rounds: Annotated[int, typer.Option(help="interleaved rounds")] = 9,
    batch: int = 4,
    pos: int = 128,
) -> None:
    """Measure and print."""
    torch.set_grad_enabled(False)
    model: Any = load_bridge(smollm2())
    transcoders = random_transcoders(model.cfg.n_layers, model.cfg.d_model)
    tokens = torch.randint(0, 40_000, (batch, pos), generator=torch.Generator().manual_seed(0))
    x = torch.randn(batch * pos, model.cfg.d_model)
    features = [f"blocks.{layer}.mlp.hook_post" for layer in transcoders.layers]

    def encoders() -> None:
        for transcoder in transcoders.values():
            torch.addmm(transcoder.b_enc, x, transcoder.W_enc)

    with tlt.splice(model, transcoders) as spliced:

        def without_mlps() -> None:
            with spliced.running(Mode.ABLATED):
                model(tokens)

        medians = interleave(
            {
                "without_mlps": without_mlps,
                "encoders": encoders,
                "spliced": lambda: model(tokens),
                "cached": lambda: model.run_with_cache(tokens, names_filter=features),
            },
            rounds,
        )
    floor = medians["without_mlps"] + medians["encoders"]
    print(
        json.dumps(
            {
                "overhead": round(medians["spliced"] / floor, 3),
                "cache_overhead": round(medians["cached"] / medians["spliced"] - 1, 3),
                "seconds": {name: round(t, 4) for name, t in medians.items()},
                "tokens": batch * pos,
                "rounds": rounds,
                "threads": torch.get_num_threads(),
            }
        )
    )


def random_transcoders(n_layers: int, d_model: int) -> tlt.TranscoderSet:
    """TopK-32 transcoders of 4,608 features for every layer."""
    made = {}
    for layer in range(n_layers):
        cfg = tlt.TranscoderConfig(
            layer=layer, d_in=d_model, d_out=d_model, n_features=N_FEATURES, activation=tlt.TopK(K)
        )
        made[layer] = tlt.Transcoder.init(cfg, seed=layer).requires_grad_(False)
    return tlt.TranscoderSet(made)


def interleave(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each action, taken in turns after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for round_ in tqdm(range(rounds + 1), desc="rounds"):
        for name, action in actions.items():
            start = perf_counter()
            action()
            if round_:
                seconds[name].append(perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


if __name__ == "__main__":
    typer.run(main)
