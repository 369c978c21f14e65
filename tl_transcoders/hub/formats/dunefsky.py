"""Dunefsky et al.: one `.pt` file for every layer, with the trainer's config object and the weights.

`…sparse_autoencoder_gpt2-small_blocks.{L}.ln2.hook_normalized_24576.pt` holds
`W_enc [d_in feature]`, `b_enc`, `W_dec [feature d_out]`, `b_dec [d_in]` and, in a transcoder,
`b_dec_out [d_out]`. The model was TransformerLens' with folded norms; the maths is

    y = relu((x - b_dec) @ W_enc + b_enc) @ W_dec + b_dec_out        (an SAE: + b_dec)

Source: Dunefsky et al. 2024, Transcoders Find Interpretable LLM Feature Circuits.
"""

import re
from collections.abc import Mapping, Set
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from tl_transcoders.errors import TranscoderFormatError
from tl_transcoders.hub.build import build, transcoder_config
from tl_transcoders.hub.canonical import Weights, fold_pre_bias
from tl_transcoders.hub.fields import Fields
from tl_transcoders.hub.files import contained
from tl_transcoders.hub.format import Format
from tl_transcoders.hub.hook_names import tap
from tl_transcoders.hub.listing import files_by_layer
from tl_transcoders.hub.request import Request
from tl_transcoders.hub.source import AbstractSource
from tl_transcoders.hub.tensors import Dims, checked
from tl_transcoders.hub.torch_file import only_tensors, read_torch
from tl_transcoders.hub.unpickle import Record
from tl_transcoders.transcoders import Origin, Transcoder, TranscoderConfig, TranscoderSet

_FILE = re.compile(r"(?:.*/)?\w*sparse_autoencoder_[^/]+_blocks\.(\d{1,4})\.[\w.]+_\d+\.pt")


def recognises(files: Set[str]) -> bool:
    """Whether a file has the trainer's name for a layer's weights."""
    return any(_FILE.fullmatch(name) for name in files)


def read(source: AbstractSource, request: Request) -> TranscoderSet:
    """The transcoders or SAEs of `source`, the pre-bias folded into b_enc."""
    request.refuse_variants(str(source))
    files = files_by_layer(source, request, _by_layer)
    chosen = request.choose(files, str(source))
    source.fetch([files[layer] for layer in chosen])
    progress = tqdm(chosen, desc="Reading", unit="layer", delay=2)
    layers = {layer: _read_layer(source, layer, files[layer], request) for layer in progress}
    names = {model_name for _, model_name in layers.values()}
    model_name = names.pop() if len(names) == 1 else None
    origin = Origin(model_name=model_name, source=source.name, revision=source.revision)
    transcoders = {layer: transcoder for layer, (transcoder, _) in layers.items()}
    return TranscoderSet(transcoders, origin=origin)


DUNEFSKY = Format(name="dunefsky", patterns=(), recognises=recognises, read=read)


def _by_layer(files: Set[str]) -> dict[int, str]:
    matches = [match for match in map(_FILE.fullmatch, sorted(files)) if match]
    by_layer = {int(match[1]): match[0] for match in matches}
    if len(by_layer) < len(matches):
        raise TranscoderFormatError(
            f"{len(matches)} files of weights",
            got="several for one layer",
            expected="one for each",
            do="Copy one set to a folder of its own and load that.",
        )
    return by_layer


def _read_layer(
    source: AbstractSource, layer: int, name: str, request: Request
) -> tuple[Transcoder, str | None]:
    try:
        path = contained(source.root, name)
        fields, tensors = _content(path)
        cfg = _config(path.name, layer, fields)
        placed = checked(path.name, tensors, _shapes(cfg), request)
        return build(cfg, _canonical(cfg, placed)), fields.text_or_none("model_name")
    except TranscoderFormatError as error:
        error.add_note(f"while reading layer {layer} of {source} (format: {DUNEFSKY.name})")
        raise


def _content(path: Path) -> tuple[Fields, dict[str, Tensor]]:
    """The plain attributes of the config, and the weights."""
    match read_torch(path):
        case {"cfg": Record(state=state), "state_dict": dict(weights)}:
            plain = {k: v for k, v in state.items() if isinstance(v, str | int | float | None)}
            return Fields(f"{path.name}, cfg", plain), only_tensors(path.name, weights)
    raise TranscoderFormatError(
        path.name,
        got="other content",
        expected="a dict of cfg, the trainer's config, and state_dict, its weights",
        do="Check that the file is of transcoder_circuits or of SAELens before version 3.",
    )


def _config(where: str, layer: int, fields: Fields) -> TranscoderConfig:
    is_transcoder = fields.flag("is_transcoder")
    layer_in, read = tap(fields, "hook_point")
    layer_out, write = tap(fields, "out_hook_point") if is_transcoder else (layer_in, read)
    if (layer_in, layer_out) != (layer, layer):
        raise TranscoderFormatError(
            where,
            got=f"hooks of layers {layer_in} and {layer_out}",
            expected=f"of layer {layer}, as the file is named",
            do="Rename the file, or do not trust it.",
        )
    return transcoder_config(
        where,
        layer=layer,
        d_in=fields.integer("d_in"),
        d_out=fields.integer("d_out" if is_transcoder else "d_in"),
        n_features=fields.integer("d_sae"),
        read=read,
        write=write,
        folded=True,
    )


def _shapes(cfg: TranscoderConfig) -> dict[str, Dims]:
    shapes: dict[str, Dims] = {
        "W_enc": {"d_in": cfg.d_in, "feature": cfg.n_features},
        "b_enc": {"feature": cfg.n_features},
        "W_dec": {"feature": cfg.n_features, "d_out": cfg.d_out},
        "b_dec": {"d_in": cfg.d_in},
    }
    return shapes if cfg.is_sae else {**shapes, "b_dec_out": {"d_out": cfg.d_out}}


def _canonical(cfg: TranscoderConfig, tensors: Mapping[str, Tensor]) -> Weights:
    weights = Weights(
        W_enc=tensors["W_enc"],
        b_enc=tensors["b_enc"],
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec" if cfg.is_sae else "b_dec_out"],
    )
    return fold_pre_bias(weights, tensors["b_dec"])
