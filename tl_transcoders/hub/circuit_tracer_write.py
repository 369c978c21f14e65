"""Writing circuit-tracer's layouts into a folder; `formats.circuit_tracer` and circuit-tracer 0.5.0 read them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from tl_transcoders.errors import ConfigError
from tl_transcoders.hub.circuit_tracer_config import CONFIG, READS, WRITES
from tl_transcoders.hub.circuit_tracer_weights import THRESHOLD
from tl_transcoders.hub.native_write import model_name, separate
from tl_transcoders.hub.save import Saveable, as_set, new_folder
from tl_transcoders.transcoders import (
    CrossLayerConfig,
    CrossLayerTranscoder,
    Transcoder,
    TranscoderConfig,
    TranscoderSet,
)
from tl_transcoders.transcoders.activations import TopK


def save_circuit_tracer(transcoders: Saveable, folder: str | Path) -> Path:
    """Write transcoders to a new `folder` in circuit-tracer's layout and return the folder.

    The layout has no thresholds per token, so a BatchTopK transcoder becomes the JumpReLU transcoder it is
    after training.

    **Raises:** ConfigError where the layout has no place for something: layers that do not begin at 0,
    different widths or taps, TopK, d_in ≠ d_out, an SAE, a skip across layers, weights for a processed model;
    HubError as `save` does.

    ```python
    cfg = TranscoderConfig(layer=0, d_in=5, d_out=5, n_features=11)
    save_circuit_tracer(Transcoder.init(cfg, seed=0), "for-circuit-tracer")
    ```
    """
    chosen = as_set(transcoders)
    cfgs = _configs(chosen)
    _check_fits(chosen.layers, cfgs)
    with new_folder(Path(folder)) as new:
        _write(chosen, cfgs[0], new)
    return Path(folder)


def _configs(
    transcoders: TranscoderSet | CrossLayerTranscoder,
) -> Sequence[TranscoderConfig | CrossLayerConfig]:
    if isinstance(transcoders, CrossLayerTranscoder):
        return [transcoders.cfg]
    return [transcoder.cfg for transcoder in transcoders.values()]


def _write(
    transcoders: TranscoderSet | CrossLayerTranscoder,
    cfg: TranscoderConfig | CrossLayerConfig,
    folder: Path,
) -> None:
    is_set = isinstance(transcoders, TranscoderSet)
    files = _set_files(transcoders) if is_set else _cross_layer_files(transcoders)
    for name, weights in tqdm(files.items(), desc="Saving", unit="file", delay=2):
        path = folder / f"{name}.safetensors"
        save_file(separate(weights), path)
        path.chmod(folder.stat().st_mode & 0o666)  # safetensors lets its owner only read it
    text = yaml.safe_dump(_config(transcoders, cfg), sort_keys=False, allow_unicode=True)
    (folder / CONFIG).write_text(text, encoding="utf-8")


def _config(
    transcoders: TranscoderSet | CrossLayerTranscoder, cfg: TranscoderConfig | CrossLayerConfig
) -> dict[str, str | None]:
    is_set = isinstance(transcoders, TranscoderSet)
    reads = {site: hook for hook, site in READS.items()}
    writes = {site: hook for hook, site in WRITES.items()}
    return {
        "model_name": model_name(transcoders),
        "model_kind": "transcoder_set" if is_set else "cross_layer_transcoder",
        "feature_input_hook": reads[cfg.read],
        "feature_output_hook": writes[cfg.write],
    }


def _set_files(transcoders: TranscoderSet) -> dict[str, dict[str, Tensor | None]]:
    return {f"layer_{layer}": _weights(transcoder) for layer, transcoder in transcoders.items()}


def _weights(transcoder: Transcoder) -> dict[str, Tensor | None]:
    return {
        "W_enc": transcoder.W_enc.T,
        "b_enc": transcoder.b_enc,
        "W_dec": transcoder.W_dec,
        "b_dec": transcoder.b_dec,
        THRESHOLD: transcoder.threshold,
        "W_skip": None if transcoder.W_skip is None else transcoder.W_skip.T,
    }


def _cross_layer_files(clt: CrossLayerTranscoder) -> dict[str, dict[str, Tensor | None]]:
    files: dict[str, dict[str, Tensor | None]] = {}
    for i in clt.layers:
        files[f"W_enc_{i}"] = {
            f"W_enc_{i}": clt.W_enc[i].T,
            f"b_enc_{i}": clt.b_enc[i],
            f"b_dec_{i}": clt.b_dec[i],
            f"threshold_{i}": None if clt.threshold is None else clt.threshold[i],
        }
        files[f"W_dec_{i}"] = {f"W_dec_{i}": clt.W_dec[i].transpose(0, 1)}
    return files


def _check_fits(
    layers: tuple[int, ...], cfgs: Sequence[TranscoderConfig | CrossLayerConfig]
) -> None:
    if layers != tuple(range(len(layers))):
        raise _no_place(f"layers {list(layers)}", "every layer from 0 on", "Add the others.")
    for attribute in ("n_features", "read", "write", "skip"):
        values = sorted({str(getattr(cfg, attribute)) for cfg in cfgs})
        if len(values) > 1:
            raise _no_place(f"{attribute} of {values}", "one for all layers", "Split the set.")
    for cfg in cfgs:
        _check_layer(cfg)


def _check_layer(cfg: TranscoderConfig | CrossLayerConfig) -> None:
    reasons: Mapping[str, bool] = {
        "an SAE or another tap": cfg.read not in READS.values() or cfg.write not in WRITES.values(),
        "weights for a processed model": cfg.folded and cfg.read != "ln2_normalized",
        "TopK": isinstance(cfg.activation, TopK),
        f"d_in={cfg.d_in} and d_out={cfg.d_out}": cfg.d_in != cfg.d_out,
        "a skip connection across layers": isinstance(cfg, CrossLayerConfig) and cfg.skip,
    }
    for got, wrong in reasons.items():
        if wrong:
            raise _no_place(
                got,
                "transcoders of one width for an unprocessed model, with ReLU or a threshold",
                "Save it with tl_transcoders.save instead.",
            )


def _no_place(got: str, expected: str, do: str) -> ConfigError:
    return ConfigError("circuit-tracer's layout", got=got, expected=expected, do=do)
