"""A cross-layer transcoder of the size of mntss/clt-gemma-2-2b-2.5M, 159 GiB, of which nothing but one feature is on the disk."""

import json
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from tests.hub.published.circuit_tracer import CLT_CONFIG

N_LAYERS, D, FEATURES = 26, 2304, 98_304
LAYER, FEATURE = 12, 54_321
"""The one feature that is not zero: W_enc is 1 throughout, b_enc 0.5, and W_dec for its n-th target n + 1."""


def write_sparse_clt(folder: Path) -> None:
    """Write files with holes, in bfloat16 as published."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CLT_CONFIG)
    for i in range(N_LAYERS):
        encoder = {f"W_enc_{i}": (FEATURES, D), f"b_enc_{i}": (FEATURES,), f"b_dec_{i}": (D,)}
        decoder = {f"W_dec_{i}": (FEATURES, N_LAYERS - i, D)}
        rows: dict[str, Tensor] = {}
        if i == LAYER:
            targets = torch.arange(1, N_LAYERS - i + 1)
            rows = {
                f"W_enc_{i}": torch.ones(D),
                f"b_enc_{i}": torch.tensor([0.5]),
                f"W_dec_{i}": targets.repeat_interleave(D),
            }
        _write(folder / f"W_enc_{i}.safetensors", encoder, rows)
        _write(folder / f"W_dec_{i}.safetensors", decoder, rows)


def _write(path: Path, shapes: dict[str, tuple[int, ...]], rows: dict[str, Tensor]) -> None:
    header, starts, end = {}, {}, 0
    for name, shape in shapes.items():
        starts[name] = end
        end += 2 * prod(shape)
        offsets = [starts[name], end]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for name in rows.keys() & shapes.keys():
            data = rows[name].bfloat16().view(torch.int16).numpy().tobytes()
            file.seek(8 + len(text) + starts[name] + FEATURE * len(data))
            file.write(data)
