"""Guards on the house itself: contracts, names, imports, shapes and sizes."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from inspect import getmembers, isclass
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

import tl_transcoders as tlt
from tl_transcoders import errors, hub

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tl_transcoders"
SOURCES = [
    path
    for folder in ("tl_transcoders", "tests", "examples", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
MAX_LINES = 600

# A function of the package with an annotated shape: `activate(activation, pre, threshold)`.
CANARY = ("tl_transcoders.transcoders.activations", "activate", "JumpReLU")


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


OF_HUB = {
    "from_sae_lens",
    "from_sparsify",
    "save_circuit_tracer",
    "save_sae_lens",
    "to_sae_lens",
}
"""Documented names that are reached through `tl_transcoders.hub` alone."""
OF_PATCHING = {"ActiveFeatures", "AllHeads", "PatchResult", "SweepResult", "sweep"}
"""Those reached through `tl_transcoders.circuits.patching`."""
OF_ATTRIBUTION = {"EdgeEffects", "NodeEffects"}
"""Those reached through `tl_transcoders.circuits.attribution`."""
OF_GRAPHS = {
    "Bias",
    "Comparison",
    "Difference",
    "GraphPath",
    "MergedGraph",
    "Scores",
    "SuperGraph",
    "Token",
    "TopTokens",
    "Tracer",
    "Validation",
    "attribution_graphs",
    "compare",
    "merge",
}
"""Those reached through `tl_transcoders.circuits.graphs`."""
OF_WEIGHTS = {
    "Account",
    "Connections",
    "Contributions",
    "FeatureCard",
    "Features",
    "HeadMap",
    "Match",
    "MeanConnections",
    "Path",
    "PathGraph",
    "Paths",
    "Skip",
    "by_head",
    "connections",
    "contributions",
    "feature_card",
    "greedy_paths",
    "mean_connections",
    "ov_norms",
}
"""Those reached through `tl_transcoders.circuits.weights`."""
OF_EVALUATION = {
    "Example",
    "FeatureScores",
    "FeatureStatistics",
    "feature_scores",
    "feature_statistics",
}
"""Those reached through `tl_transcoders.evaluation`."""

OF_ATTENTION = {
    "AttentionRow",
    "HeadLoadings",
    "HeadPath",
    "HeadPaths",
    "LoadingTable",
    "QKAttribution",
    "RowTerm",
    "attention_row",
    "head_path",
    "head_paths",
    "loading_table",
}
"""Those reached through `tl_transcoders.circuits.attention`."""
OF_CIRCUITS = {
    "Curve",
    "Faithfulness",
    "KLDivergence",
    "Resample",
    "SparseFeatureCircuit",
    "Zero",
    "acdc",
    "curve",
    "faithfulness",
    "greedy",
    "sparse_feature_circuit",
}
"""Those reached through `tl_transcoders.circuits`."""


def documented(page: str) -> set[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return {
        line.rpartition(".")[2] for line in re.findall(r"^::: (tl_transcoders\.\S+)$", text, re.M)
    }


def test_import_contracts_hold() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_public_names_are_the_documented_names() -> None:
    elsewhere = OF_HUB | OF_PATCHING | OF_ATTRIBUTION | OF_CIRCUITS | OF_GRAPHS
    elsewhere |= OF_WEIGHTS | OF_EVALUATION | OF_ATTENTION
    assert set(tlt.__all__) | elsewhere == documented("api.md")


def test_what_only_the_hub_offers_is_there() -> None:
    assert set(vars(hub)) >= OF_HUB
    assert OF_HUB.isdisjoint(tlt.__all__)


def test_public_names_exist() -> None:
    assert [name for name in tlt.__all__ if not hasattr(tlt, name)] == []


def test_every_error_is_documented() -> None:
    own = {name for name, kind in getmembers(errors, isclass) if kind.__module__ == errors.__name__}
    assert own == documented("errors.md")


IMPORT_PROBE = """
import logging, os, random, signal, socket, sys, warnings
import numpy, torch, transformer_lens

def refuse(*_): raise AssertionError("importing tl_transcoders opens a connection")

def state():
    loggers = [logging.root, *(l for l in logging.root.manager.loggerDict.values() if isinstance(l, logging.Logger))]
    return {
        "dtype": torch.get_default_dtype(), "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(), "inference": torch.is_inference_mode_enabled(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "seeds": (torch.initial_seed(), torch.get_rng_state().tolist(), random.getstate(), str(numpy.random.get_state())),
        "print": str(torch._tensor_str.PRINT_OPTS),
        "warnings": list(warnings.filters), "handlers": {l.name: (l.level, list(l.handlers)) for l in loggers if l.handlers},
        "path": list(sys.path), "finders": list(sys.meta_path), "hooks": (sys.excepthook, sys.displayhook),
        "environment": dict(os.environ), "signals": signal.getsignal(signal.SIGINT), "folder": os.getcwd(),
    }

before = state()
socket.socket.connect = refuse
import tl_transcoders
after = state()
changed = [key for key in before if before[key] != after[key]]
assert not changed, f"importing tl_transcoders changed: {changed}"
"""


def test_importing_changes_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_PROBE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_importing_brings_no_heavy_package() -> None:
    probe = (
        "import sys, transformer_lens; before = set(sys.modules); import tl_transcoders;"
        "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not set(run.stdout.split()) & {
        "transformers",
        "datasets",
        "accelerate",
        "typer",
        "plotly",
    }


def test_the_shape_checker_is_on() -> None:
    module, function, activation = CANARY
    target = getattr(import_module(module), function)
    kind = getattr(import_module(module), activation)()
    assert target(kind, torch.ones(3, 7, 11), torch.zeros(11)).shape == (3, 7, 11)
    with pytest.raises(TypeCheckError):
        target(kind, torch.ones(3, 7, 11), torch.zeros(5))


def test_no_file_is_long() -> None:
    assert names([path for path in SOURCES if path.read_text().count("\n") > MAX_LINES]) == []


def test_the_package_is_device_agnostic() -> None:
    assert names([path for path in PACKAGE.rglob("*.py") if ".cuda(" in path.read_text()]) == []


def test_annotations_are_live_objects() -> None:
    assert names([path for path in SOURCES if "annotations" in future_imports(path)]) == []


def test_every_function_is_annotated() -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in PACKAGE.rglob("*.py")
        for node in functions(path)
        if not is_annotated(node)
    ]
    assert bare == []


def future_imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
        for alias in node.names
    }


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def is_annotated(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    arguments += [extra for extra in (node.args.vararg, node.args.kwarg) if extra is not None]
    unnamed = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
    return node.returns is not None and not unnamed
