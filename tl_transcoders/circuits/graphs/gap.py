"""Whether rows sum to the pre-activations of their targets."""

from typing import Final

import torch

from tl_transcoders.errors import SpliceError

TOLERANCE: Final = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 0.05}
BFLOAT16: Final = 0.25
"""Tiny models with norms behind their blocks miss by 0.17."""


def check_gap(where: str, gap: float, *dtypes: torch.dtype) -> None:
    """Raises SpliceError for rows that miss by more than rounding in the coarsest of the dtypes, or by NaN."""
    coarsest = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    tolerance = TOLERANCE.get(coarsest, BFLOAT16)
    if not gap <= tolerance:
        raise SpliceError(
            where,
            got=f"rows that miss their targets' pre-activations by {gap:.2g} of the sum of their entries",
            expected=f"at most {tolerance:.2g}",
            do="Try float32 where the model is of less precision. Where it is not, the model computes something the "
            "graph does not describe: please report it.",
        )
