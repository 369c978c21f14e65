"""Writing our own layout into a folder; `formats.native` reads it."""

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from tl_transcoders.errors import ConfigError
from tl_transcoders.hub.files import sha256, sync
from tl_transcoders.hub.native_index import (
    INDEX,
    CrossLayerIndex,
    Index,
    LayerFile,
    SetIndex,
    index_to_dict,
)
from tl_transcoders.hub.request import DTYPES
from tl_transcoders.transcoders import CrossLayerTranscoder, Transcoder, TranscoderSet

Weights = dict[str, Tensor | None]


def write(transcoders: TranscoderSet | CrossLayerTranscoder, folder: Path) -> None:
    """Write the files of a set into an existing folder, the index last."""
    layers = tqdm(_weights_of_layers(transcoders), desc="Saving", unit="layer", delay=2)
    files = tuple(_write_layer(folder, layer, weights) for layer, weights in layers)
    text = json.dumps(index_to_dict(_index(transcoders, files)), indent=1)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")
    sync(folder / INDEX)


def model_name(transcoders: TranscoderSet | CrossLayerTranscoder) -> str | None:
    """The model they were trained on, where it is recorded."""
    return transcoders.origin.model_name


def _index(
    transcoders: TranscoderSet | CrossLayerTranscoder, files: tuple[LayerFile, ...]
) -> Index:
    name = model_name(transcoders)
    if isinstance(transcoders, CrossLayerTranscoder):
        return CrossLayerIndex(model_name=name, files=files, config=transcoders.cfg)
    configs = tuple(transcoder.cfg for transcoder in transcoders.values())
    return SetIndex(model_name=name, files=files, configs=configs)


def _weights_of_layers(
    transcoders: TranscoderSet | CrossLayerTranscoder,
) -> list[tuple[int, Weights]]:
    if isinstance(transcoders, TranscoderSet):
        return [(layer, _weights(transcoder)) for layer, transcoder in transcoders.items()]
    return [
        (layer, _cross_layer_weights(transcoders, i)) for i, layer in enumerate(transcoders.layers)
    ]


def _weights(transcoder: Transcoder) -> Weights:
    return {
        "W_enc.T": transcoder.W_enc.T,
        "b_enc": transcoder.b_enc,
        "W_dec": transcoder.W_dec,
        "b_dec": transcoder.b_dec,
        "W_skip": transcoder.W_skip,
        "threshold": transcoder.threshold,
    }


def _cross_layer_weights(transcoder: CrossLayerTranscoder, i: int) -> Weights:
    return {
        "W_enc.T": transcoder.W_enc[i].T,
        "b_enc": transcoder.b_enc[i],
        "W_dec": transcoder.W_dec[i],
        "b_dec": transcoder.b_dec[i],
        "W_skip": None if transcoder.W_skip is None else transcoder.W_skip[i],
        "threshold": None if transcoder.threshold is None else transcoder.threshold[i],
    }


def _write_layer(folder: Path, layer: int, weights: Weights) -> LayerFile:
    path = folder / f"layer_{layer}.safetensors"
    save_file(separate(weights), path)
    path.chmod(folder.stat().st_mode & 0o666)  # safetensors lets its owner only read it
    sync(path)
    return LayerFile(layer=layer, file=path.name, bytes=path.stat().st_size, sha256=sha256(path))


def _check_savable(name: str, tensor: Tensor) -> None:
    if tensor.is_meta:
        got = "a tensor on the meta device, without data"
    elif tensor.dtype not in DTYPES:
        got = str(tensor.dtype)
    elif not tensor.isfinite().all():
        got = "NaN or infinite values"
    else:
        return
    raise ConfigError(
        name,
        got=got,
        expected=f"finite weights, of {' or '.join(map(str, DTYPES))}",
        do="Cast, load or train the transcoder again.",
    )


def separate(weights: Weights) -> dict[str, Tensor]:
    """Contiguous tensors that share no memory: safetensors refuses a decoder tied to its encoder."""
    separate: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if tensor is not None:
            _check_savable(name, tensor)
            dense = tensor.detach().contiguous()
            tied = any(_memory(dense) == _memory(other) for other in separate.values())
            separate[name] = dense.clone() if tied else dense
    return separate


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
