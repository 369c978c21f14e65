"""A set in every published layout for SmolLM2-135M and Gemma-3-270M is loaded, passes the check and is spliced."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tl_transcoders as tlt
from examples.real_models import gemma3, load_bridge, smollm2
from tests.real.layouts import LAYOUTS, Layout
from tl_transcoders._types import Site
from tl_transcoders.hosts import resolve_host
from tl_transcoders.splice.sample import sample_tokens

pytestmark = [pytest.mark.real]
LAYERS = (0, 1)


@pytest.fixture(scope="module", params=[smollm2, gemma3], ids=["smollm2", "gemma3"])
def model(request: pytest.FixtureRequest) -> Iterator[Any]:
    with torch.no_grad():
        yield load_bridge(request.param())


@pytest.fixture(scope="module")
def tokens(model: Any) -> Tensor:
    return sample_tokens(resolve_host(model))


@pytest.fixture(scope="module")
def maps(model: Any, tokens: Tensor) -> dict[tuple[Site, Site], dict[int, Tensor]]:
    """For the taps of every layout, the linear maps from what the model reads at these tokens to what it writes."""
    host = resolve_host(model)
    taps = {(layout.read, layout.write_site) for layout in LAYOUTS}
    with host.recording([(i, site) for i in LAYERS for tap in taps for site in tap]) as store:
        host.run(tokens)
    rows = {place: value[:, 1:].flatten(0, 1).double() for place, value in store.items()}
    return {(r, w): {i: fitted(rows[i, r], rows[i, w]) for i in LAYERS} for r, w in taps}


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_it_loads_fits_and_splices(
    layout: Layout,
    model: Any,
    tokens: Tensor,
    maps: dict[tuple[Site, Site], dict[int, Tensor]],
    tmp_path: Path,
) -> None:
    chosen = maps[layout.read, layout.write_site]
    loaded = tlt.load(layout.write(tmp_path, chosen))
    assert loaded.layers == LAYERS
    report = tlt.check(model, loaded, tokens)
    assert report.ok
    assert max(row.stated.fvu for row in report.layers) < 1e-3
    with tlt.splice(model, loaded):
        logits, cache = model.run_with_cache(tokens[:1, :7])
    assert logits.isfinite().all()
    posts = [cache[name] for name in cache if name.endswith("hook_post")]
    assert sum(post.shape[-1] == 2 * len(chosen[0]) for post in posts) == len(LAYERS)


def fitted(x: Tensor, y: Tensor) -> Tensor:
    """The linear map that takes x to y, of which there are fewer rows than dimensions; the identity for an SAE."""
    if torch.equal(x, y):
        return torch.eye(x.shape[1])
    assert len(x) < x.shape[1]
    return torch.linalg.lstsq(x, y, driver="gelsd").solution.float()
