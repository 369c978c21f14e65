"""Train, save, reload and splice skip transcoders for SmolLM2-135M, and measure what the model keeps.

`python -m examples.smollm2_splice` trains TopK-32 skip transcoders of 4,608 features for six MLPs, all from
one stream of activations. Every prompt begins with the token that separates SmolLM2's documents: it draws the
attention that would otherwise rest on the first word, and is left to the original MLP, in training and in
the splice. A run that is stopped goes on where it was.
"""

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from jaxtyping import Int
from rich.console import Console
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

import tl_transcoders as tlt
from examples.cache import cache_root
from examples.real_models import load_bridge, smollm2
from examples.real_text import english_text, token_batches
from tl_transcoders.training.checkpoint import has_checkpoint

LAYERS = [3, 4, 5, 6, 7, 8]
BOS = 0
CONTEXT = 128
HELD_OUT = 32
PROMPT = "The capital of France is"
FOLDER = cache_root() / "smollm2-splice"
console = Console(width=120)


def main(
    n_tokens: Annotated[int, typer.Option(help="tokens to train on")] = 1_048_576,
    layers: Annotated[list[int], typer.Option(help="MLPs to replace")] = LAYERS,
    folder: Annotated[Path, typer.Option(help="where checkpoints and transcoders go")] = FOLDER,
    n_features: int = 4608,
    k: int = 32,
) -> None:
    """Run the example."""
    started = time.perf_counter()
    model = load_bridge(smollm2())
    held_out, training = prompts(model, n_tokens)
    transcoders = train(model, layers, training, folder, n_tokens, n_features, k)
    trained = time.perf_counter()
    tlt.save(transcoders, folder / "transcoders", overwrite=True)
    reloaded = tlt.load(folder / "transcoders")
    with tlt.splice(model, reloaded, exclude=[BOS]) as spliced:
        report = tlt.evaluate(spliced, held_out, per_layer=True, progress=True)
        console.print(report)
        print(report.markdown())
        show_features(model, spliced)
    minutes = (time.perf_counter() - started) / 60
    console.print(
        f"{n_tokens:,} training tokens, {held_out.numel():,} held out; "
        f"training {(trained - started) / 60:.1f} min, all {minutes:.1f} min"
    )


def prompts(model: TransformerBridge, n_tokens: int) -> tuple[Tensor, Tensor]:
    """Held-out and training prompts, `[prompt pos]`, each a BOS and 127 tokens of English."""
    rows = HELD_OUT + -(-n_tokens // (CONTEXT - 1))
    text = token_batches(
        model.tokenizer, english_text(), context=CONTEXT - 1, limit=rows * (CONTEXT - 1)
    )
    opened = torch.cat([torch.full((len(text), 1), BOS), text], dim=1)
    return opened[:HELD_OUT], opened[HELD_OUT:]


def train(
    model: TransformerBridge,
    layers: list[int],
    tokens: Int[Tensor, "prompt pos"],
    folder: Path,
    n_tokens: int,
    n_features: int,
    k: int,
) -> tlt.TranscoderSet:
    """Train all layers at once, going on from the last checkpoint where there is one."""
    checkpoints = folder / f"checkpoints-{n_tokens}-{'-'.join(map(str, layers))}-{n_features}-{k}"
    config = tlt.TrainConfig(
        n_features=n_features,
        activation=tlt.TopK(k),
        skip=True,
        n_tokens=n_tokens,
        exclude=(BOS,),
        dead_after=min(200_000, n_tokens // 4),
        checkpoint=str(checkpoints),
        checkpoint_every=100,
    )
    resume = checkpoints if has_checkpoint(checkpoints) else None
    return tlt.train(model, layers=layers, config=config, tokens=tokens, resume=resume)


def show_features(model: TransformerBridge, spliced: tlt.Spliced) -> None:
    """The strongest features at the end of the prompt, and the tokens each pushes through its decoder row.

    The push is W_dec[f] · ln_final gain · W_U: the feature's direct path to the logits, up to the final norm's scale.
    """
    tokens = torch.cat([torch.tensor([[BOS]]), model.to_tokens(PROMPT, prepend_bos=False)], dim=1)
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
    answer = model.to_string(logits[0, -1].argmax())
    console.print(f"{PROMPT!r} → {answer!r} with {len(spliced.layers)} MLPs spliced")
    gain, W_U = model.ln_final.weight, model.W_U
    for layer in spliced.layers:
        post = cache[f"blocks.{layer}.mlp.hook_post"][0, -1]
        for index in post.topk(3).indices.tolist():
            push = (spliced.transcoders[layer].W_dec[index] * gain) @ W_U
            words = [model.to_string(token) for token in push.topk(6).indices]
            console.print(f"  f{layer}.{index:<5} {post[index]:6.2f}  {words}", markup=False)


if __name__ == "__main__":
    typer.run(main)
