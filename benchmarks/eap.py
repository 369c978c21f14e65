"""Edge attribution over heads and MLPs: EAP-IG's algorithm with hooks, and ours, on the same HookedTransformer.

EAP-IG (Hanna et al. 2024) writes every head's and MLP's change between two runs into one tensor
`[batch pos writer d_model]`, and multiplies it with the gradient of every reader's input in a backward hook. This is
that algorithm on transformer-lens 3.9, with the flags it needs (`use_attn_result`, `use_split_qkv_input`,
`use_hook_mlp_in`, keys and values ungrouped), against `tlt.attribute` on the same weights and prompts, spliced with
error="keep" and errors live, over the same kinds of nodes. Edges both know are compared.

`python -m benchmarks.eap` runs on transformer-lens 3.9 and prints one JSON line last; `benchmarks.path_patching`
starts it.
"""

import json
import resource
import statistics
from time import perf_counter
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_llama_weights
from transformers import AutoModelForCausalLM, AutoTokenizer

import tl_transcoders as tlt
from benchmarks.splice import random_transcoders
from examples.real_models import smollm2
from tl_transcoders.circuits import Embed, Logits
from tl_transcoders.circuits.attribution import Attribution
from tl_transcoders.circuits.tasks import ioi

SPLICED = range(3, 9)
HEADS_AND_MLPS = (Embed, tlt.Head, tlt.Mlp, Logits)


def main(
    rounds: Annotated[int, typer.Option(help="interleaved rounds")] = 3,
    batch: int = 8,
) -> None:
    """Measure and print."""
    model = hooked_smollm2()
    task = ioi(model.tokenizer, n=batch)
    base, source = long_enough(task.base), long_enough(task.source)
    peer = Eap(model, base, source, task.metric)
    transcoders = random_transcoders(model.cfg.n_layers, model.cfg.d_model)
    transcoders = tlt.TranscoderSet({layer: transcoders[layer] for layer in SPLICED})
    seconds: dict[str, list[float]] = {"eap": [], "ours": [], "features": []}
    for _ in range(rounds):
        start = perf_counter()
        scores = peer.scores()
        seconds["eap"].append(perf_counter() - start)
        with tlt.splice(model, transcoders, error="keep") as spliced:
            start = perf_counter()
            found = tlt.attribute(
                spliced, base, source, metric=task.metric, level="edge", errors="live", kinds=HEADS_AND_MLPS,
                max_edges=None,
            )  # fmt: skip
            seconds["ours"].append(perf_counter() - start)
            start = perf_counter()
            every = tlt.attribute(spliced, base, source, metric=task.metric, level="edge")
            seconds["features"].append(perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(
        json.dumps(
            {
                "edge_speedup": round(medians["eap"] / medians["ours"], 2),
                **compared(peer, scores, found),
                "edges": len(found.edges),
                "edges_with_features_kept": len(every.edges),
                "seconds": {name: round(s, 2) for name, s in medians.items()},
                "prompts": list(base.shape),
                "rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
                "threads": torch.get_num_threads(),
            }
        )
    )


class Eap:
    """EAP-IG's algorithm with one step (EAP), on a HookedTransformer."""

    def __init__(self, model: Any, base: Tensor, source: Tensor, metric: Any) -> None:
        self.model, self.base, self.source, self.metric = model, base, source, metric
        n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
        self.writers = ["embed"]
        self.readers: list[str] = []
        for layer in range(n_layers):
            self.readers += [f"a{layer}.h{h}<{part}>" for part in "qkv" for h in range(n_heads)]
            self.writers += [f"a{layer}.h{h}" for h in range(n_heads)]
            self.readers.append(f"m{layer}")
            self.writers.append(f"m{layer}")
        self.readers.append("logits")
        self.per_layer = n_heads + 1

    def scores(self) -> Tensor:
        """Scores `[writer reader]`, summed over prompts and positions."""
        cfg = self.model.cfg
        flags = ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in")
        before = {name: getattr(cfg, name) for name in (*flags, "ungroup_grouped_query_attention")}
        try:
            self.model.set_use_attn_result(True)
            self.model.set_use_split_qkv_input(True)
            self.model.set_use_hook_mlp_in(True)
            self.model.set_ungroup_grouped_query_attention(True)
            return self._scores()
        finally:
            for name, value in before.items():
                setattr(cfg, name, value)

    def _scores(self) -> Tensor:
        shape = (*self.base.shape, len(self.writers), self.model.cfg.d_model)
        change = torch.zeros(shape)
        scores = torch.zeros(len(self.writers), len(self.readers))
        with torch.no_grad():
            self.model.run_with_hooks(self.source, fwd_hooks=self._writing(change, 1))
        forward = [*self._writing(change, -1), ("hook_embed", lambda x, hook: x.requires_grad_())]
        backward = self._reading(change, scores)
        with torch.enable_grad(), self.model.hooks(fwd_hooks=forward, bwd_hooks=backward):
            self.metric(self.model(self.base)).sum().backward()
        return scores

    def _writing(self, change: Tensor, sign: int) -> list[Any]:
        def write(at: slice) -> Any:
            def hook(value: Tensor, hook: Any) -> None:
                value = value.detach() if value.dim() == 4 else value.detach()[:, :, None]
                change[:, :, at] += sign * value

            return hook

        hooks = [("hook_embed", write(slice(0, 1)))]
        for layer in range(self.model.cfg.n_layers):
            first = 1 + layer * self.per_layer
            last = first + self.per_layer - 1
            hooks.append((f"blocks.{layer}.attn.hook_result", write(slice(first, last))))
            hooks.append((f"blocks.{layer}.hook_mlp_out", write(slice(last, last + 1))))
        return hooks

    def _reading(self, change: Tensor, scores: Tensor) -> list[Any]:
        def read(n_writers: int, at: slice) -> Any:
            def hook(gradient: Tensor, hook: Any) -> None:
                gradient = gradient if gradient.dim() == 4 else gradient[:, :, None]
                scores[:n_writers, at] += torch.einsum(
                    "bpwd,bprd->wr", change[:, :, :n_writers], gradient
                )

            return hook

        hooks, n_heads = [], self.model.cfg.n_heads
        for layer in range(self.model.cfg.n_layers):
            first, n_writers = layer * (3 * n_heads + 1), 1 + layer * self.per_layer
            for i, part in enumerate("qkv"):
                at = slice(first + i * n_heads, first + (i + 1) * n_heads)
                hooks.append((f"blocks.{layer}.hook_{part}_input", read(n_writers, at)))
            at = slice(first + 3 * n_heads, first + 3 * n_heads + 1)
            hooks.append((f"blocks.{layer}.hook_mlp_in", read(n_writers + n_heads, at)))
        everything = slice(len(self.readers) - 1, len(self.readers))
        last = f"blocks.{self.model.cfg.n_layers - 1}.hook_resid_post"
        return [*hooks, (last, read(len(self.writers), everything))]


def compared(peer: Eap, scores: Tensor, found: Attribution) -> dict[str, float]:
    """How far the scores of edges that both know are apart."""
    writers = {name: i for i, name in enumerate(peer.writers)}
    readers = {name: i for i, name in enumerate(peer.readers)}
    batch = len(peer.base)
    gaps, common = [], 0
    for (u, v), effect in found.edges.top(len(found.edges)):
        i, j = writers.get(tlt.circuits.write_node(u)), readers.get(tlt.circuits.write_node(v))
        if i is not None and j is not None:
            gaps.append(abs(float(scores[i, j]) / batch - effect))
            common += 1
    largest = float(scores.abs().max()) / batch
    return {"edge_max_abs_diff": max(gaps), "largest_edge": largest, "edges_compared": common}


def long_enough(tokens: Tensor, length: int = 24) -> Tensor:
    """The prompts with their first token repeated in front, until they have the length the bar names."""
    lead = tokens[:, :1].expand(-1, max(0, length - tokens.shape[1]))
    return torch.cat([lead, tokens], dim=1)


def hooked_smollm2() -> Any:
    """SmolLM2-135M as a HookedTransformer, unprocessed."""
    folder = smollm2()
    hf = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    c = hf.config
    cfg = HookedTransformerConfig(
        d_model=c.hidden_size, n_layers=c.num_hidden_layers, n_heads=c.num_attention_heads,
        d_head=c.hidden_size // c.num_attention_heads, d_mlp=c.intermediate_size, n_ctx=512, d_vocab=c.vocab_size,
        n_key_value_heads=c.num_key_value_heads, act_fn="silu", gated_mlp=True, normalization_type="RMS",
        eps=c.rms_norm_eps, final_rms=True, positional_embedding_type="rotary", rotary_adjacent_pairs=False,
        rotary_dim=c.hidden_size // c.num_attention_heads, rotary_base=int(c.rope_parameters["rope_theta"]),
        original_architecture="LlamaForCausalLM", device="cpu", default_prepend_bos=False, seed=0,
    )  # fmt: skip
    model = HookedTransformer(cfg, tokenizer=tokenizer, move_to_device=False)
    state = {key: value.detach().clone() for key, value in convert_llama_weights(hf, cfg).items()}
    model.load_and_process_state_dict(
        state,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


if __name__ == "__main__":
    typer.run(main)
