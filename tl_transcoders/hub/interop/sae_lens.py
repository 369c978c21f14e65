"""SAELens' objects and folders."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from tl_transcoders.errors import ConfigError
from tl_transcoders.hub.build import build
from tl_transcoders.hub.interop.objects import PeerObject, config_of, tensors_of
from tl_transcoders.hub.layouts.sae_lens_config import sae_lens_config
from tl_transcoders.hub.layouts.sae_lens_export import sae_lens_cfg, sae_lens_tensors
from tl_transcoders.hub.layouts.sae_lens_weights import canonical, optional_shapes, shapes
from tl_transcoders.hub.save import Saveable, as_set, new_folder
from tl_transcoders.transcoders import CrossLayerTranscoder, Transcoder


def from_sae_lens(sae: PeerObject) -> Transcoder:
    """A SAELens transcoder or SAE as one of ours; weights in which nothing is folded share its memory.

    **Raises:** TranscoderFormatError, with the reason, for what `load` refuses of a SAELens folder.
    """
    where = f"cfg of {type(sae).__name__}"
    config = sae_lens_config(where, config_of(sae))
    if config.input_scale:
        raise ConfigError(
            where,
            got="normalize_activations = expected_average_only_in",
            expected="an SAE whose scale is folded into its weights",
            do="Call sae.fold_activation_norm_scaling_factor(scale) first.",
        )
    tensors = tensors_of(sae, shapes(config), optional_shapes(config))
    return build(config.transcoder, canonical(config, tensors))


def to_sae_lens(transcoder: Transcoder, *, model_name: str | None = None) -> Any:
    """The same as an object of SAELens, which must be installed.

    **Raises:** ConfigError where SAELens cannot be imported or has no such architecture.
    """
    if not isinstance(transcoder, Transcoder):
        raise ConfigError(
            "to_sae_lens",
            got=type(transcoder).__name__,
            expected="a single Transcoder",
            do="Take one layer of a set: to_sae_lens(transcoders[3]).",
        )
    cfg = sae_lens_cfg(transcoder, model_name=model_name)
    try:
        sae_class, cfg_class = import_module("sae_lens.registry").get_sae_class(cfg["architecture"])
    except ImportError as error:
        raise ConfigError(
            "sae_lens",
            got=f"an error on import ({error})",
            expected="SAELens in this environment; it needs transformer-lens<4",
            do="Use save_sae_lens(transcoders, folder) and load the folder where SAELens runs.",
        ) from error
    sae = sae_class(cfg_class.from_dict(cfg))
    sae.load_state_dict(sae_lens_tensors(transcoder))
    return sae


def save_sae_lens(transcoders: Saveable, folder: str | Path) -> Path:
    """Write a folder `layer_{L}` for every layer, each of which SAELens loads, and return `folder`.

    **Raises:** ConfigError for what SAELens has no architecture for; HubError where `folder` is not empty
    or cannot be written.
    """
    found = as_set(transcoders)
    if isinstance(found, CrossLayerTranscoder):
        raise ConfigError(
            "save_sae_lens",
            got="a cross-layer transcoder",
            expected="transcoders of single layers",
            do="SAELens has no cross-layer transcoders: use save.",
        )
    cfgs = {n: sae_lens_cfg(t, model_name=found.origin.model_name) for n, t in found.items()}
    with new_folder(Path(folder)) as new:
        for layer, transcoder in found.items():
            below = new / f"layer_{layer}"
            below.mkdir()
            save_file(sae_lens_tensors(transcoder), below / "sae_weights.safetensors")
            (below / "cfg.json").write_text(json.dumps(cfgs[layer], indent=1), encoding="utf-8")
    return Path(folder)
