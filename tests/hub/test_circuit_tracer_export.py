"""Our sets in circuit-tracer's layout: the same files as published, read by ourselves and by circuit-tracer."""

import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.hub.published.circuit_tracer import write_clt, write_set
from tests.hub.samples import cross_layer, randomise, transcoder, transcoder_set
from tl_transcoders.errors import ConfigError, HubError
from tl_transcoders.hub import load, save_circuit_tracer
from tl_transcoders.transcoders import (
    BatchTopK,
    CrossLayerConfig,
    CrossLayerTranscoder,
    JumpReLU,
    TopK,
    Transcoder,
    TranscoderConfig,
    TranscoderSet,
)

ROOT = Path(__file__).parents[2]
PEER = ROOT / ".peers" / "circuit-tracer" / "bin" / "python"


def a_set(**changes: object) -> TranscoderSet:
    made = {}
    for layer in range(3):
        cfg = TranscoderConfig(layer=layer, **{"d_in": 5, "d_out": 5, "n_features": 11, **changes})
        made[layer] = Transcoder.init(cfg, seed=layer)
        randomise(made[layer], seed=layer)
        if made[layer].threshold is not None:
            made[layer].threshold.data.abs_()
    return TranscoderSet(made)


def a_clt(**changes: object) -> CrossLayerTranscoder:
    sizes = {"d_in": 5, "d_out": 5, "n_features": 11}
    cfg = CrossLayerConfig(layers=(0, 1, 2), read="resid_mid", **{**sizes, **changes})
    made = CrossLayerTranscoder.init(cfg, seed=0)
    randomise(made, seed=1)
    for threshold in made.threshold or ():
        threshold.data.abs_()
    return made


@pytest.mark.parametrize("write", [write_set, write_clt])
@pytest.mark.parametrize("threshold", [False, True])
def test_reading_and_writing_restores_every_file(
    tmp_path: Path, write: object, threshold: bool
) -> None:
    assert callable(write)
    write(tmp_path / "published", threshold=threshold)
    save_circuit_tracer(load(tmp_path / "published"), tmp_path / "exported")
    for path in (tmp_path / "published").glob("*.safetensors"):
        published, exported = load_file(path), load_file(tmp_path / "exported" / path.name)
        assert published.keys() == exported.keys()
        for name, tensor in published.items():
            assert torch.equal(exported[name], tensor)


@pytest.mark.skipif(not PEER.exists(), reason="needs make peers")
def test_circuit_tracer_reads_it(tmp_path: Path) -> None:
    made = {
        "relu": a_set(),
        "jumprelu-skip": a_set(activation=JumpReLU(), skip=True, write="mlp_out"),
        "batchtopk": a_set(activation=BatchTopK(3)),
        "clt": a_clt(),
        "clt-jumprelu": a_clt(activation=JumpReLU()),
    }
    folders = [str(save_circuit_tracer(m, tmp_path / name)) for name, m in made.items()]
    command = [str(PEER), "-m", "tests.hub.golden.read_circuit_tracer", *folders]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    for name, transcoders in made.items():
        compare(transcoders, load_file(tmp_path / f"{name}.safetensors"))
    with torch.no_grad():
        made["clt"].W_dec[0].data[2] += 1e-2
    with pytest.raises(AssertionError, match="not close"):
        compare(made["clt"], load_file(tmp_path / "clt.safetensors"))


def compare(made: TranscoderSet | CrossLayerTranscoder, read: dict[str, torch.Tensor]) -> None:
    x = read["read.x"]
    for layer in made.layers:
        if isinstance(made, CrossLayerTranscoder):
            post, y = made.encode(layer, x[layer]), made(dict(enumerate(x)))[layer]
        else:
            post, y = made[layer].encode(x[layer]), made[layer](x[layer])
        torch.testing.assert_close(read["read.post"][layer], post, rtol=0, atol=1e-5)
        torch.testing.assert_close(read["read.y"][layer], y, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("made", "got"),
    [
        (lambda: transcoder_set(1, 2), "layers [1, 2]"),
        (lambda: TranscoderSet({0: transcoder(0)}), "processed model"),
        (lambda: a_set(d_out=7), "d_in=5 and d_out=7"),
        (lambda: a_set(activation=TopK(2)), "TopK"),
        (lambda: a_set(read="resid_post", write="resid_post"), "SAE"),
        (lambda: a_clt(skip=True), "skip connection across layers"),
        (cross_layer, "layers [1, 2, 5]"),
    ],
)
def test_what_has_no_place(tmp_path: Path, made: object, got: str) -> None:
    assert callable(made)
    with pytest.raises(ConfigError) as caught:
        save_circuit_tracer(made(), tmp_path / "set")
    assert got in caught.value.got
    assert not list(tmp_path.iterdir())


def test_layers_of_different_widths(tmp_path: Path) -> None:
    other = a_set(n_features=13)[1]
    mixed = TranscoderSet({**a_set(), 1: other})
    with pytest.raises(ConfigError, match=r"n_features of \['11', '13'\]"):
        save_circuit_tracer(mixed, tmp_path / "set")


def test_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(HubError, match="not empty"):
        save_circuit_tracer(a_set(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
