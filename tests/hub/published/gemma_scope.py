"""Gemma Scope's `params.npz`, one for every layer, width and average L0."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

D, FEATURES = 5, {"16k": 11, "65k": 13}
CASES = ("transcoders", "res", "mlp", "att")
L0S: Mapping[int, Sequence[int]] = {0: (12, 76), 3: (17, 89)}


def write(
    folder: Path,
    *,
    case: str = "transcoders",
    seed: int = 0,
    widths: Sequence[str] = ("16k",),
    l0s: Mapping[int, Sequence[int]] | None = None,
) -> Path:
    """The parameters under `folder`, in a folder of the repository's name, which is returned."""
    repository = folder / f"gemma-scope-2b-pt-{case}"
    for layer, choices in ({0: (76,), 3: (89,)} if l0s is None else l0s).items():
        for width in widths:
            for l0 in choices:
                path = repository / f"layer_{layer}/width_{width}/average_l0_{l0}/params.npz"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savez(path, **arrays(seed + 1000 * layer + l0, FEATURES[width]))
    return repository


def arrays(seed: int, n_features: int = 11) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape, dtype=np.float32)

    return {
        "W_enc": normal(D, n_features),
        "b_enc": normal(n_features),
        "W_dec": normal(n_features, D),
        "b_dec": normal(D),
        "threshold": np.abs(normal(n_features)),
    }
