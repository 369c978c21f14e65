"""Trains the year-span model: `python -m tl_transcoders.demo.make_model`.

    sentences → GPT-2 of 4 layers → tl_transcoders/demo/data/model/

Weight decay is strong in attention and weak elsewhere: heads can then carry little of the function
"> YY" themselves, and MLPs have to compute it. `data/model/record.json` says how far they do.
"""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from tqdm import trange
from transformers import GPT2Config, GPT2LMHeadModel

from tl_transcoders.demo.data import training_tokens
from tl_transcoders.demo.loading import MODEL
from tl_transcoders.demo.measure import HELD_OUT, TRAINED_ON, Pair, mean_score
from tl_transcoders.demo.tokenizer import build_tokenizer
from tl_transcoders.demo.vocabulary import BOS, PAD, VOCABULARY


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the model is trained. The same recipe and machine give the same bytes, with one thread."""

    steps: int = 2800
    batch_size: int = 64
    lr: float = 2e-3
    warmup: float = 0.04
    attention_decay: float = 0.5
    other_decay: float = 0.01
    seed: int = 0


def make_model(recipe: Recipe) -> GPT2LMHeadModel:
    """Train from random weights; step i sees the sentences of seed i, so no sentence order repeats."""
    torch.manual_seed(recipe.seed)
    model = GPT2LMHeadModel(_config()).train()
    # The fused form of gelu_new, three times as fast to train with.
    for mlp in _mlps(model):
        mlp.act = nn.GELU(approximate="tanh")
    optimizer = torch.optim.AdamW(_parameter_groups(model, recipe), lr=recipe.lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.lr,
        total_steps=recipe.steps,
        pct_start=recipe.warmup,
        cycle_momentum=False,
    )
    for step in trange(recipe.steps, desc="year-span", unit="step"):
        tokens = training_tokens(recipe.batch_size, seed=recipe.seed * 1_000_003 + step)
        optimizer.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def measure(model: GPT2LMHeadModel) -> dict[str, float]:
    """Greater-than scores, whole and with MLPs replaced by nothing or by their mean output."""
    layers = range(model.config.n_layer)
    return {
        "score_trained_on": _score(model, TRAINED_ON),
        "score_held_out": _score(model, HELD_OUT),
        "score_without_mlps": _score_without(model, layers, mean=False),
        "score_with_mean_mlps": _score_without(model, layers, mean=True),
        **{
            f"score_with_mean_mlp_{layer}": _score_without(model, [layer], mean=True)
            for layer in layers
        },
        "score_with_mean_mlps_after_0": _score_without(model, layers[1:], mean=True),
    }


def main() -> None:
    """Train, measure and save."""
    # Two threads are no faster for matrices this small, and make the last bits depend on the machine's load.
    torch.set_num_threads(1)
    begun, recipe = time.perf_counter(), Recipe()
    model = make_model(recipe)
    record = {
        "recipe": asdict(recipe),
        "seconds": round(time.perf_counter() - begun),
        "measured": {name: round(score, 4) for name, score in measure(model).items()},
    }
    save(model, MODEL, record)
    print(json.dumps(record, indent=2))


def save(model: GPT2LMHeadModel, folder: Path, record: dict[str, object]) -> None:
    """Write weights, config, tokenizer and the record of how they were made."""
    model.config._name_or_path = ""
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    (folder / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    for file in folder.iterdir():
        file.chmod(0o644)


def _config() -> GPT2Config:
    config = GPT2Config(
        vocab_size=len(VOCABULARY),
        n_positions=64,
        n_embd=64,
        n_layer=4,
        n_head=4,
        n_inner=256,
        activation_function="gelu_new",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=VOCABULARY[BOS],
        eos_token_id=VOCABULARY[BOS],
        pad_token_id=VOCABULARY[PAD],
    )
    config.loss_type = "ForCausalLM"
    return config


def _mlps(model: GPT2LMHeadModel) -> list[Any]:
    blocks: Any = model.transformer.h
    return [block.mlp for block in blocks]


def _parameter_groups(model: GPT2LMHeadModel, recipe: Recipe) -> list[dict[str, object]]:
    attention = [p for name, p in model.named_parameters() if ".attn." in name and p.ndim == 2]
    chosen = {id(p) for p in attention}
    other = [p for p in model.parameters() if id(p) not in chosen]
    return [
        {"params": attention, "weight_decay": recipe.attention_decay},
        {"params": other, "weight_decay": recipe.other_decay},
    ]


def _score(model: GPT2LMHeadModel, pairs: Iterable[Pair]) -> float:
    return mean_score(lambda tokens: model(tokens).logits, pairs)


def _score_without(model: GPT2LMHeadModel, layers: Iterable[int], *, mean: bool) -> float:
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_ablated(model, layer, mean=mean))
        return _score(model, HELD_OUT)


@contextmanager
def _ablated(model: GPT2LMHeadModel, layer: int, *, mean: bool) -> Iterator[None]:
    """Replace what an MLP returns by zeros, or by its mean over training sentences."""
    mlp = _mlps(model)[layer]
    value = _mean_output(model, mlp) if mean else torch.zeros(model.config.n_embd)
    hook = mlp.register_forward_hook(lambda _module, _inputs, output: value.expand_as(output))
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def _mean_output(model: GPT2LMHeadModel, mlp: Any) -> Tensor:
    seen: list[Tensor] = []
    hook = mlp.register_forward_hook(lambda *call: seen.append(call[-1]))
    try:
        model(training_tokens(256, seed=-1))
    finally:
        hook.remove()
    return seen[0].mean(dim=(0, 1))


if __name__ == "__main__":
    main()
