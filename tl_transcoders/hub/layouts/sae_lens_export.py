"""Our transcoders in SAELens' words: the `cfg.json` and the tensors of its version 6."""

from typing import Any, assert_never

from torch import Tensor, contiguous_format

from tl_transcoders.errors import ConfigError
from tl_transcoders.hub.hook_names import hook_name
from tl_transcoders.transcoders import (
    BatchTopK,
    JumpReLU,
    ReLU,
    TopK,
    Transcoder,
    TranscoderConfig,
)

VERSION = "6.54.12"
"""The SAELens that read what this module writes."""


def sae_lens_cfg(transcoder: Transcoder, *, model_name: str | None) -> dict[str, Any]:
    """The `cfg.json` of a transcoder or SAE; raises ConfigError where SAELens has no such architecture.

    A BatchTopK is written as the JumpReLU that it is at inference.
    """
    cfg = transcoder.cfg
    metadata = {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": None,
        "model_name": model_name,
        "hook_name": hook_name(cfg.read, cfg.layer),
        **({} if cfg.is_sae else {"hook_name_out": hook_name(cfg.write, cfg.layer)}),
        **({"model_from_pretrained_kwargs": {"fold_ln": True}} if cfg.folded else {}),
    }
    return {
        "architecture": _architecture(cfg),
        "d_in": cfg.d_in,
        "d_sae": cfg.n_features,
        **({} if cfg.is_sae else {"d_out": cfg.d_out}),
        **({"k": cfg.activation.k} if isinstance(cfg.activation, TopK) else {}),
        "dtype": str(transcoder.W_dec.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if cfg.read == "z" else "none",
        "metadata": metadata,
    }


def sae_lens_tensors(transcoder: Transcoder) -> dict[str, Tensor]:
    """The tensors by SAELens' names, contiguous and apart from each other."""
    published = {
        "W_enc": transcoder.W_enc,
        "b_enc": transcoder.b_enc,
        "W_dec": transcoder.W_dec,
        "b_dec": transcoder.b_dec,
        "W_skip": None if transcoder.W_skip is None else transcoder.W_skip.T,
        "threshold": transcoder.threshold,
    }
    given = {name: tensor.detach() for name, tensor in published.items() if tensor is not None}
    return {name: t.clone(memory_format=contiguous_format) for name, t in given.items()}


def _architecture(cfg: TranscoderConfig) -> str:
    skip = "skip_" if cfg.skip else ""
    match cfg.activation:
        case ReLU():
            return "standard" if cfg.is_sae else f"{skip}transcoder"
        case JumpReLU() | BatchTopK():
            return "jumprelu" if cfg.is_sae else f"jumprelu_{skip}transcoder"
        case TopK():
            if not cfg.is_sae:
                raise ConfigError(
                    f"transcoder of layer {cfg.layer}",
                    got="a TopK transcoder",
                    expected="an architecture that SAELens has",
                    do="It cannot be expressed there: use save.",
                )
            return "topk"
        case _:
            assert_never(cfg.activation)
