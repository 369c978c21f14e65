"""From sparsify's objects."""

from pathlib import Path

import pytest

from tests.hub.formats.compare import assert_computes, golden
from tests.hub.interop.stand_ins import stand_in
from tests.hub.published.sparsify import write
from tl_transcoders.errors import ConfigError, TranscoderFormatError
from tl_transcoders.hub import from_sparsify

HOOKPOINT = "layers.3.mlp"


@pytest.mark.parametrize("case", ["sae", "transcoder", "skip_transcoder"])
def test_an_object_is_what_its_folder_is(tmp_path: Path, case: str) -> None:
    write(tmp_path, case=case, hookpoints=(HOOKPOINT,))
    coder = stand_in(tmp_path / HOOKPOINT, "sae.safetensors")
    del coder.cfg.data["d_in"]
    found = from_sparsify(coder, HOOKPOINT)
    assert_computes(found, golden("sparsify", case))
    assert found.cfg.read == ("mlp_out_raw" if case == "sae" else "mlp_in")


def test_a_hookpoint_that_is_none(tmp_path: Path) -> None:
    write(tmp_path, hookpoints=(HOOKPOINT,))
    coder = stand_in(tmp_path / HOOKPOINT, "sae.safetensors")
    with pytest.raises(ConfigError, match="got 'embed_tokens'"):
        from_sparsify(coder, "embed_tokens")
    with pytest.raises(TranscoderFormatError, match="a transcoder of an MLP"):
        from_sparsify(coder, "layers.3.self_attn")


def test_an_object_without_its_decoder(tmp_path: Path) -> None:
    write(tmp_path, hookpoints=(HOOKPOINT,))
    coder = stand_in(tmp_path / HOOKPOINT, "sae.safetensors")
    del coder.state["W_dec"]
    with pytest.raises(ConfigError, match=r"missing tensors \['W_dec'\]"):
        from_sparsify(coder, HOOKPOINT)
