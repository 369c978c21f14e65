"""The graphs that circuit-tracer 0.5.0 makes of the models of `tests.circuits.golden.models`.

`.peers/circuit-tracer/bin/python -m tests.circuits.golden.circuit_tracer` writes `circuit_tracer.safetensors`, and
`circuit_tracer.pt`, one of the graphs as the peer saves it, beside this file.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.circuits.golden.models import (
    ARCHITECTURES,
    BOS,
    D_MODEL,
    KINDS,
    N_LAYERS,
    TOKENS,
    VOCAB,
    hf_model,
    write_transcoders,
)

NODE, EDGE = 0.8, 0.98
SAVED = ("llama", "jumprelu")
"""The graph that is kept as a .pt file too."""


def main() -> None:
    """Write every graph as tensors, and one in the peer's own format."""
    golden: dict[str, Tensor] = {}
    with TemporaryDirectory() as folder:
        for kind in KINDS:
            write_transcoders(Path(folder, kind), kind)
            for architecture in ARCHITECTURES:
                graph = peer_graph(architecture, Path(folder, kind), kind)
                golden |= recorded(f"{architecture}-{kind}", graph)
                if (architecture, kind) == SAVED:
                    graph.to_pt(str(Path(__file__).with_suffix(".pt")))
    save_file(golden, Path(__file__).with_suffix(".safetensors"))


def peer_graph(architecture: str, folder: Path, kind: str) -> Any:
    """The peer's own graph."""
    from circuit_tracer.attribution.attribute import attribute
    from circuit_tracer.replacement_model.replacement_model_transformerlens import (
        TransformerLensReplacementModel,
    )

    model: Any = TransformerLensReplacementModel(peer_config(architecture))
    missing = model.load_state_dict(peer_weights(architecture, model.cfg), strict=False)
    assert not [
        name
        for name in missing.missing_keys
        if not name.endswith(("mask", "IGNORE", "rotary_sin", "rotary_cos", "b_U"))
    ], missing
    model._configure_replacement_model(peer_transcoders(folder, kind))
    model.tokenizer = SimpleNamespace(
        decode=str, all_special_ids=[BOS], vocab_size=VOCAB, padding_side="right"
    )
    return attribute(torch.tensor(TOKENS), model, batch_size=7)


def peer_config(architecture: str) -> Any:
    """The model in the words of transformer-lens."""
    from transformer_lens import HookedTransformerConfig

    common: dict[str, Any] = {
        "n_layers": N_LAYERS,
        "d_model": D_MODEL,
        "n_ctx": 16,
        "d_vocab": VOCAB,
        "n_heads": 2,
        "d_mlp": 17,
        "device": "cpu",
        "model_name": architecture,
    }
    if architecture == "gpt2":
        own = {"d_head": 5, "act_fn": "gelu_new", "normalization_type": "LN"}
        return HookedTransformerConfig(**common, **own, original_architecture="GPT2LMHeadModel")
    own = {"d_head": 6, "act_fn": "silu", "normalization_type": "RMS", "n_key_value_heads": 1}
    rotary = {"positional_embedding_type": "rotary", "rotary_dim": 6, "rotary_base": 10000}
    return HookedTransformerConfig(
        **common,
        **own,
        **rotary,
        rotary_adjacent_pairs=False,
        gated_mlp=True,
        final_rms=True,
        eps=1e-6,
        original_architecture="LlamaForCausalLM",
    )


def peer_weights(architecture: str, cfg: Any) -> dict[str, Tensor]:
    """The weights of the model of Hugging Face under transformer-lens's names."""
    from transformer_lens.pretrained.weight_conversions import (
        convert_gpt2_weights,
        convert_llama_weights,
    )

    convert = convert_gpt2_weights if architecture == "gpt2" else convert_llama_weights
    return convert(hf_model(architecture), cfg)


def peer_transcoders(folder: Path, kind: str) -> Any:
    """The set or the cross-layer transcoder of a folder."""
    from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
    from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set

    hooks = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}
    cpu = torch.device("cpu")
    if kind == "clt":
        return load_clt(str(folder), device=cpu, dtype=torch.float32, scan="scan", **hooks)
    paths = {i: str(folder / f"layer_{i}.safetensors") for i in range(N_LAYERS)}
    return load_transcoder_set(paths, scan="scan", device=cpu, lazy_encoder=False, **hooks)


def recorded(name: str, graph: Any) -> dict[str, Tensor]:
    """Features as `layer pos index`, rows of features and logits, and what the peer computes from them."""
    from circuit_tracer.graph import compute_graph_scores, compute_node_influence, prune_graph

    n_features, n_logits = len(graph.selected_features), len(graph.logit_targets)
    matrix = graph.adjacency_matrix
    rows = torch.cat([torch.arange(n_features), torch.arange(len(matrix) - n_logits, len(matrix))])
    weights = torch.zeros(len(matrix))
    weights[-n_logits:] = graph.logit_probabilities
    pruned = prune_graph(graph, NODE, EDGE)
    found = {
        "features": graph.active_features[graph.selected_features].short(),
        "activation": graph.activation_values[graph.selected_features],
        "logits": graph.logit_token_ids.short(),
        "probability": graph.logit_probabilities,
        "rows": matrix[rows],
        "influence": compute_node_influence(matrix, weights),
        "nodes": pruned.node_mask,
        "edges": pruned.edge_mask[rows],
        "scores": torch.tensor(compute_graph_scores(graph)),
    }
    assert not matrix[n_features : len(matrix) - n_logits].any()
    return {f"{name}.{key}": value.detach().clone().contiguous() for key, value in found.items()}


if __name__ == "__main__":
    main()
