"""Llama Scope's folders: their own maths, SAELens, taps, and what is refused."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.hub.client import Client
from tests.hub.formats.compare import assert_computes, golden
from tests.hub.published.llama_scope import CASES, D, config, folder_name, tensors, write
from tests.hub.repositories import Hub
from tl_transcoders.errors import ConfigError, TranscoderFormatError
from tl_transcoders.hub import load
from tl_transcoders.transcoders import JumpReLU, TranscoderSet

FOLDER = folder_name(3)


def loaded(folder: Path, **options: object) -> TranscoderSet:
    found = load(folder, **options)
    assert isinstance(found, TranscoderSet)
    return found


def refusal(folder: Path, **options: object) -> TranscoderFormatError:
    with pytest.raises(TranscoderFormatError) as caught:
        load(folder, **options)
    return caught.value


def edit(folder: Path, **changes: object) -> None:
    """Change `hyperparams.json`; None leaves a key out."""
    path = folder / FOLDER / "hyperparams.json"
    changed = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in changed.items() if v is not None}))


def formula(w: dict[str, Tensor], cfg: dict[str, object], x: Tensor) -> Tensor:
    """The output as the authors' code computes it where it runs an SAE.

    The weights are first made ones for x as it is, then those of a unit-norm decoder.
    """
    norms = cfg["dataset_average_activation_norm"]
    assert isinstance(norms, dict)
    scale_in, scale_out = (math.sqrt(D) / norms[name] for name in ("in", "out"))
    centre = w["decoder.bias"] / scale_in if cfg["apply_decoder_bias_to_pre_encoder"] else 0
    b_enc = w["encoder.bias"] / scale_in
    b_dec = w["decoder.bias"] / scale_out
    w_dec = w["decoder.weight"] * scale_in / scale_out
    length = w_dec.norm(dim=0)
    hidden = ((x - centre) @ w["encoder.weight"].T + b_enc) * length
    post = hidden.where(hidden > cfg["jump_relu_threshold"], 0)
    return post @ (w_dec / length).T + b_dec


@pytest.mark.parametrize("case", CASES)
def test_it_follows_the_formula(tmp_path: Path, case: str) -> None:
    write(tmp_path, case=case)
    x = 3 * torch.randn(3, 7, D)
    for layer, transcoder in loaded(tmp_path, verify=True).items():
        expected = formula(tensors(case, layer), config(layer, case), x)
        torch.testing.assert_close(transcoder(x), expected, rtol=1e-5, atol=1e-5)


def test_it_follows_the_formula_where_input_and_output_are_scaled_differently(
    tmp_path: Path,
) -> None:
    write(tmp_path)
    norms = {"in": 3.7, "out": 1.9}
    edit(tmp_path, dataset_average_activation_norm=norms)
    x = 3 * torch.randn(3, 7, D)
    cfg = {**config(3, "R"), "dataset_average_activation_norm": norms}
    expected = formula(tensors("R", 3), cfg, x)
    torch.testing.assert_close(loaded(tmp_path)[3](x), expected, rtol=1e-5, atol=1e-5)


def test_sae_lens_computes_the_same_where_the_decoder_has_unit_norm(tmp_path: Path) -> None:
    write(tmp_path, case="unit_norm")
    expected = golden("sae_lens_loaders", "llama_scope.unit_norm")
    expected["post"] *= 3.7 / math.sqrt(D)  # its features are those of the scaled x
    assert_computes(loaded(tmp_path)[3], expected)


@pytest.mark.parametrize(
    "name", ["encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"]
)
def test_one_changed_weight_is_seen(tmp_path: Path, name: str) -> None:
    write(tmp_path, case="unit_norm")
    changed = tensors("unit_norm", 3)
    changed[name] *= 1.1
    save_file(changed, tmp_path / FOLDER / "checkpoints/final.safetensors")
    with pytest.raises(AssertionError):
        assert_computes(
            loaded(tmp_path)[3],
            {
                k: v
                for k, v in golden("sae_lens_loaders", "llama_scope.unit_norm").items()
                if k != "post"
            },
        )


def test_a_decoder_that_is_zero(tmp_path: Path) -> None:
    write(tmp_path)
    changed = tensors("R", 3)
    changed["decoder.weight"][:, 4] = 0
    save_file(changed, tmp_path / FOLDER / "checkpoints/final.safetensors")
    features = loaded(tmp_path)[3].encode(100 * torch.randn(17, D))
    assert features[:, 4].count_nonzero() == 0
    assert features.isfinite().all()


@pytest.mark.parametrize(
    ("case", "site"), [("R", "resid_post"), ("M", "mlp_out"), ("A", "attn_out")]
)
def test_the_config(tmp_path: Path, case: str, site: str) -> None:
    write(tmp_path, case=case)
    found = loaded(tmp_path)
    cfg = found[3].cfg
    assert found.layers == (1, 3)
    assert (cfg.d_in, cfg.d_out, cfg.n_features, cfg.activation) == (5, 5, 11, JumpReLU())
    assert (cfg.read, cfg.write, cfg.folded) == (site, site, False)
    assert found.origin.model_name == "meta-llama/Llama-3.1-8B"


def test_weights_without_scales_bias_or_norms(tmp_path: Path) -> None:
    write(tmp_path)
    edit(
        tmp_path,
        norm_activation="inference",
        use_decoder_bias=False,
        sparsity_include_decoder_norm=False,
    )
    w = tensors("R", 3)
    kept = {name: tensor for name, tensor in w.items() if name != "decoder.bias"}
    save_file(kept, tmp_path / FOLDER / "checkpoints/final.safetensors")
    x = torch.randn(17, D)
    pre = x @ w["encoder.weight"].T + w["encoder.bias"]
    expected = pre.where(pre > 0.52734375, 0) @ w["decoder.weight"].T
    torch.testing.assert_close(loaded(tmp_path)[3](x), expected, rtol=1e-5, atol=1e-5)


def test_a_set_is_chosen_by_name(tmp_path: Path) -> None:
    write(tmp_path, case="R")
    write(tmp_path, case="M", layers=(3,))
    with pytest.raises(ConfigError, match="kind="):
        load(tmp_path)
    assert loaded(tmp_path, kind="*M-8x")[3].cfg.read == "mlp_out"
    with pytest.raises(ConfigError, match="Leave these arguments out"):
        load(tmp_path, width="8x")


def test_only_what_is_asked_for_is_downloaded(hub: Hub, client: Client, tmp_path: Path) -> None:
    write(tmp_path)
    hub.publish("fnlp/Llama3_1-8B-Base-LXR-8x", tmp_path)
    found = client.run(load, "fnlp/Llama3_1-8B-Base-LXR-8x", layers=[3])
    assert found.layers == (3,)
    assert not [request for request in hub.requests if "L1R" in request]


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"act_fn": "topk"}, ", act_fn"),
        ({"use_glu_encoder": True}, ", use_glu_encoder"),
        ({"norm_activation": "token-wise"}, ", norm_activation"),
        (
            {"dataset_average_activation_norm": {"in": 0, "out": 1}},
            ", dataset_average_activation_norm, in",
        ),
        (
            {"dataset_average_activation_norm": {"in": 1, "out": 10**400}},
            ", dataset_average_activation_norm, out",
        ),
        ({"dataset_average_activation_norm": 3}, ", dataset_average_activation_norm"),
        ({"sparsity_include_decoder_norm": None}, ", sparsity_include_decoder_norm"),
        ({"jump_relu_threshold": "0.5"}, ", jump_relu_threshold"),
        ({"jump_relu_threshold": math.nan}, ", jump_relu_threshold"),
        ({"hook_point_in": "blocks.3.hook_mlp_in"}, ", hook_point_in"),
        ({"hook_point_out": "blocks.3.hook_resid_pre"}, ", transcoder of layer 3"),
        ({"d_model": -5}, ", transcoder of layer 3"),
        ({"d_sae": 1.5}, ", d_sae"),
        ({"hook_point_in": "blocks.4.hook_resid_post"}, ""),
    ],
)
def test_a_config_that_says_something_else(
    tmp_path: Path, changes: dict[str, object], where: str
) -> None:
    write(tmp_path)
    edit(tmp_path, **changes)
    assert refusal(tmp_path).where == f"{FOLDER}/hyperparams.json{where}"


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    write(tmp_path)
    edit(tmp_path, d_sae=13)
    error = refusal(tmp_path)
    assert error.got == "shape (11, 5)"
    assert error.__notes__ == [f"while reading layer 3 of {tmp_path} (format: Llama Scope)"]
