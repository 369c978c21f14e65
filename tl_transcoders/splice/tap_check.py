"""Measuring whether transcoders explain the MLPs at the tap their configs state."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from tl_transcoders._types import Site
from tl_transcoders.errors import ShapeError
from tl_transcoders.hosts import AbstractHost, Silence, all_hook_points, check_tokens, resolve_host
from tl_transcoders.splice.checks import Swappable, as_set, check_fits, refuse_taken
from tl_transcoders.splice.layer_weights import Unit, layers_of, units_of, weights_of
from tl_transcoders.splice.norms import Norms
from tl_transcoders.splice.tap_report import LayerTaps, TapFit, TapReport
from tl_transcoders.splice.taps import Candidate, candidates
from tl_transcoders.transcoders import CrossLayerTranscoder, Transcoder, TranscoderSet

PROMPTS_AT_ONCE = 8
ROWS_AT_ONCE = 64

Recorded = Mapping[tuple[int, Site], Float[Tensor, "row d"]]


def check(
    model: nn.Module,
    transcoders: Swappable,
    tokens: Int[Tensor, "batch pos"],
    *,
    norms: Norms | None = None,
    skip: int = 1,
    progress: bool = False,
) -> TapReport:
    """Whether transcoders fit this model at their stated tap, and which tap would fit where that one does not.

        FVU = Σ‖y − transcoder(x)‖² / Σ‖y − mean y‖²      x, y: the original model's values at a tap

    Every read site and write site the weights could have is tried, before and after the gain of ln2, and as
    trained on a raw and on a processed model. A few hundred tokens of ordinary text suffice. In LayerNorm
    models the mean over `d_model`, which no later layer sees, does not count.

    **Arguments:** `norms`, as for `splice`; `skip`, how many positions at the start of each prompt are left
    out: activations there (BOS, attention sinks) are so large that they would be all that FVU measures.

    **Raises:** as `splice` where transcoders do not fit the model at all; ShapeError for prompts without a
    position left to measure.

    ```python
    report = tlt.check(model, transcoders, tokens)
    print(report)
    report.raise_if_wrong()
    ```
    """
    host = resolve_host(model)
    transcoders = as_set(transcoders)
    check_tokens(host, tokens, "check")
    if tokens.shape[1] <= skip or tokens.shape[0] * (tokens.shape[1] - skip) < 2:
        raise ShapeError(
            "check",
            got=f"{tokens.shape[0]} prompts of {tokens.shape[1]} tokens, the first {skip} of which are left out",
            expected="at least two positions to measure, better a few hundred",
            do="Give longer prompts.",
        )
    refuse_taken(model, check_fits(host, transcoders))
    return measure_taps(host, transcoders, tokens, norms=norms, skip=skip, progress=progress)


def measure_taps(
    host: AbstractHost,
    transcoders: TranscoderSet | CrossLayerTranscoder,
    tokens: Int[Tensor, "batch pos"],
    *,
    norms: Norms | None = None,
    skip: int = 1,
    progress: bool = False,
) -> TapReport:
    """`check` of transcoders that are known to have the model's layers and widths."""
    units = units_of(transcoders)
    # Candidates are made twice and kept never, because a fold may copy an encoder.
    sites = {site for unit in units for c in candidates(unit, host, norms) for site in c.sites}
    recorded = _record(host, sorted(sites), tokens, skip)
    rows = [
        row
        for unit in tqdm(units, desc="check", disable=not progress)
        for row in _rows_of(unit, candidates(unit, host, norms), recorded, host)
    ]
    n_tokens = tokens.shape[0] * (tokens.shape[1] - skip)
    rows.sort(key=lambda row: row.layer)
    return TapReport(n_tokens=n_tokens, skipped=skip, layers=tuple(rows))


def fraction_unexplained(y: Float[Tensor, "row d"], y_hat: Float[Tensor, "row d"]) -> float:
    """Σ‖y − ŷ‖² / Σ‖y − ȳ‖², summed in float64."""
    y, y_hat = y.double(), y_hat.double()
    return ((y - y_hat).square().sum() / (y - y.mean(0)).square().sum()).item()


def _record(
    host: AbstractHost, sites: list[tuple[int, Site]], tokens: Tensor, skip: int
) -> Recorded:
    """The unspliced model's values at the positions that count, with the user's hooks silent."""
    kept: dict[tuple[int, Site], list[Tensor]] = {place: [] for place in sites}
    silent = Silence(list(all_hook_points(host.model)), keep=set())
    with silent, host.recording(sites) as store:
        for prompts in tokens.split(PROMPTS_AT_ONCE):
            host.run(prompts, stop_at_layer=max(layer for layer, _ in sites) + 1)
            for place in sites:
                kept[place].append(store[place][:, skip:].flatten(0, 1))
    return {place: torch.cat(parts) for place, parts in kept.items()}


def _rows_of(
    unit: Unit, found: Iterable[Candidate], recorded: Recorded, host: AbstractHost
) -> Iterator[LayerTaps]:
    fits: dict[int, list[TapFit]] = {layer: [] for layer in layers_of(unit)}
    for candidate in found:
        for layer, y_hat in _outputs(candidate.unit, recorded).items():
            for write in candidate.writes:
                fvu = _fvu(recorded[layer, write], y_hat, centred=host.centred)
                fits[layer].append(
                    TapFit(read=candidate.read, write=write, folded=candidate.folded, fvu=fvu)
                )
    for layer, (stated, *others) in fits.items():
        yield LayerTaps(layer=layer, stated=stated, others=tuple(others))


def _outputs(unit: Unit, recorded: Recorded) -> dict[int, Tensor]:
    """What a unit returns in each of its layers."""
    dtype = weights_of(unit)[0].W_enc.dtype
    inputs = {layer: recorded[layer, unit.cfg.read].to(dtype) for layer in layers_of(unit)}
    chunks = [
        dict(zip(inputs, rows, strict=True))
        for rows in zip(*(x.split(ROWS_AT_ONCE) for x in inputs.values()), strict=True)
    ]
    with torch.no_grad():
        done = [_output(unit, chunk) for chunk in chunks]
    return {layer: torch.cat([chunk[layer] for chunk in done]) for layer in inputs}


def _output(unit: Unit, x: dict[int, Tensor]) -> dict[int, Tensor]:
    if isinstance(unit, Transcoder):
        return {layer: unit(rows) for layer, rows in x.items()}
    return unit(x)


def _fvu(y: Tensor, y_hat: Tensor, *, centred: bool) -> float:
    if not centred:
        return fraction_unexplained(y, y_hat)
    return fraction_unexplained(y - y.mean(-1, keepdim=True), y_hat - y_hat.mean(-1, keepdim=True))
