"""2.5 million features on a small machine: opened, one of them inspected and run, in less than 1 GB."""

import resource
import sys
from pathlib import Path

import pytest
import torch

from tests.hub.client import Client
from tests.hub.sparse_clt import FEATURE, FEATURES, LAYER, N_LAYERS, D, write_sparse_clt
from tl_transcoders.hub import load
from tl_transcoders.transcoders import CrossLayerTranscoder, SparseFeatures

GIGABYTE = 2**30


def inspect(folder: Path) -> tuple[float, list[float], int]:
    """The feature's activation on an input of ones, what it then writes to every layer, and peak memory."""
    clt = load(folder)
    assert isinstance(clt, CrossLayerTranscoder)
    encoder, bias = clt.W_enc[LAYER][:, FEATURE].float(), clt.b_enc[LAYER][FEATURE].float()
    post = (torch.ones(D) @ encoder + bias).relu()
    one = SparseFeatures(
        post.bfloat16()[None], torch.tensor([FEATURE]), torch.tensor([0]), (1, FEATURES)
    )
    none = SparseFeatures(one.values[:0], one.indices[:0], one.offsets, one.shape)
    features = {layer: one if layer == LAYER else none for layer in clt.layers}
    written = [clt.decode(layer, features)[0, 0].item() for layer in clt.layers]
    return post.item(), written, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is in kilobytes on Linux only")
def test_a_large_cross_layer_transcoder(client: Client, tmp_path: Path) -> None:
    write_sparse_clt(tmp_path / "clt")
    files = [path.stat() for path in (tmp_path / "clt").iterdir()]
    assert sum(file.st_size for file in files) > 158 * GIGABYTE
    assert sum(file.st_blocks * 512 for file in files) < GIGABYTE / 100
    post, written, peak = client.run(inspect, tmp_path / "clt")
    assert post == D + 0.5
    a = torch.tensor(post).bfloat16().item()
    expected = [0.0] * LAYER + [a * n for n in range(1, N_LAYERS - LAYER + 1)]
    torch.testing.assert_close(torch.tensor(written), torch.tensor(expected), rtol=2**-7, atol=0)
    assert peak < GIGABYTE
