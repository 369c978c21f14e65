"""The peer's side of `benchmarks.attribution_graph`, in its own environment: circuit-tracer 0.5.0 on the same weights.

`python -m benchmarks.attribution_graph_peer FOLDER` builds SmolLM2 from a configuration made by hand, reads the
transcoders from FOLDER, and answers the parent until it closes the pipe: `{"tokens", "batch_size", "max_features",
"file"}` makes a graph and tells its seconds and the most memory it held beyond what stood there before.
"""

import json
import sys
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from circuit_tracer.attribution.attribute import attribute
from circuit_tracer.replacement_model.replacement_model_transformerlens import (
    TransformerLensReplacementModel,
)
from circuit_tracer.transcoder.activation_functions import TopK
from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_llama_weights
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.memory import Peak


def main() -> None:
    """Answer the parent."""
    folder = Path(sys.argv[1])
    facts = json.loads((folder / "facts.json").read_text())
    torch.set_num_threads(facts["threads"])
    model = replacement_model(Path(facts["model"]), folder, facts["k"])
    answer({"torch": torch.__version__, "threads": torch.get_num_threads()})
    for line in sys.stdin:
        order = json.loads(line)
        with Peak() as peak:
            start, start_cpu = perf_counter(), process_time()
            graph = attribute(
                torch.tensor(order["tokens"]),
                model,
                batch_size=order["batch_size"],
                max_feature_nodes=order["max_features"],
            )
            seconds, cpu = perf_counter() - start, process_time() - start_cpu
        if order["file"]:
            keep(graph, Path(order["file"]))
        answer({"seconds": seconds, "cpu_seconds": cpu, "peak": peak.megabytes})


def replacement_model(path: Path, folder: Path, k: int) -> Any:
    """SmolLM2 with the transcoders, as circuit-tracer builds models from configurations."""
    c = json.loads((path / "config.json").read_text())
    d_head = c["hidden_size"] // c["num_attention_heads"]
    cfg = HookedTransformerConfig(
        d_model=c["hidden_size"], n_layers=c["num_hidden_layers"], n_heads=c["num_attention_heads"], d_head=d_head,
        d_mlp=c["intermediate_size"], n_ctx=512, d_vocab=c["vocab_size"], n_key_value_heads=c["num_key_value_heads"],
        act_fn="silu", gated_mlp=True, normalization_type="RMS", eps=c["rms_norm_eps"], final_rms=True,
        positional_embedding_type="rotary", rotary_adjacent_pairs=False, rotary_dim=d_head,
        rotary_base=int(c["rope_parameters"]["rope_theta"]), original_architecture="LlamaForCausalLM", device="cpu",
        default_prepend_bos=False, seed=0,
    )  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(path / "tokenizer.json"),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        name_or_path="smollm2",
        add_bos_token=True,  # else transformer-lens loads it again by this name
    )
    model: Any = TransformerLensReplacementModel(cfg, tokenizer=tokenizer)
    model.load_and_process_state_dict(
        state(path, c, cfg),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    model._configure_replacement_model(transcoders(folder, c["num_hidden_layers"], k))
    return model


def state(path: Path, c: dict[str, Any], cfg: HookedTransformerConfig) -> dict[str, torch.Tensor]:
    """The weights in TransformerLens' names."""
    hf = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=c["hidden_size"],
            intermediate_size=c["intermediate_size"],
            num_hidden_layers=c["num_hidden_layers"],
            num_attention_heads=c["num_attention_heads"],
            num_key_value_heads=c["num_key_value_heads"],
            vocab_size=c["vocab_size"],
            tie_word_embeddings=True,
        )
    )
    hf.load_state_dict(load_file(path / "model.safetensors"), strict=False)
    hf.tie_weights()
    converted: dict[str, torch.Tensor] = convert_llama_weights(hf, cfg)
    return {key: value.detach().clone() for key, value in converted.items()}


def transcoders(folder: Path, n_layers: int, k: int) -> TranscoderSet:
    """Those that the parent wrote, one file per layer."""
    made = {}
    for layer in range(n_layers):
        weights = load_file(folder / f"layer_{layer}.safetensors")
        n_features, d_model = weights["W_enc"].shape
        made[layer] = SingleLayerTranscoder(
            d_model, n_features, TopK(k), layer, device=torch.device("cpu"), dtype=torch.float32
        )
        made[layer].load_state_dict(weights)
    return TranscoderSet(made, "mlp.hook_in", "mlp.hook_out", scan="random")


def keep(graph: Any, file: Path) -> None:
    """The graph as plain tensors."""
    save_file(
        {
            "adjacency": graph.adjacency_matrix.contiguous(),
            "features": graph.active_features[graph.selected_features].contiguous(),
            "tokens": torch.tensor([int(target.vocab_idx) for target in graph.logit_targets]),
        },
        file,
    )


def answer(data: dict[str, Any]) -> None:
    """One line to the parent."""
    print("answer", json.dumps(data), flush=True)


if __name__ == "__main__":
    main()
