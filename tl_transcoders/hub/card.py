"""The model card of a published set."""

import html
import json

import yaml

from tl_transcoders.hub.hook_names import hook_name
from tl_transcoders.hub.native_write import model_name
from tl_transcoders.hub.place import is_repo_id
from tl_transcoders.transcoders import (
    CrossLayerConfig,
    CrossLayerTranscoder,
    TranscoderConfig,
    TranscoderSet,
)

TAGS = ("transcoder", "tl-transcoders", "transformer-lens", "mechanistic-interpretability")

_COLUMNS = ("layer", "d_in", "features", "d_out", "activation", "skip", "reads", "writes", "folded")

_CARD = """\
---
{front}---

# {title}

{kind} of {model}, saved with tl_transcoders.

{table}

A folded set was trained on a model whose norm gains are folded into its weights.

## Use

```python
import tl_transcoders as tlt

transcoders = tlt.load({repo})
with tlt.splice(model, transcoders):  # model: a HookedTransformer or TransformerBridge of {model_text}
    logits, cache = model.run_with_cache("The capital of France is")
cache["{hook}"]  # feature activations [batch pos feature]
```
"""


def model_card(transcoders: TranscoderSet | CrossLayerTranscoder, repo_id: str) -> str:
    """The text of `README.md` for a set published as `repo_id`; every value is escaped."""
    cross_layer = isinstance(transcoders, CrossLayerTranscoder)
    name = model_name(transcoders)
    front: dict[str, object] = {"library_name": "tl-transcoders"}
    if name is not None and is_repo_id(name):
        front["base_model"] = name
    front["tags"] = [*TAGS, "cross-layer-transcoder"] if cross_layer else list(TAGS)
    model = "an unnamed model" if name is None else name
    return _CARD.format(
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
        title=_escaped(repo_id),
        kind=_kind(transcoders),
        model=_escaped(model),
        model_text=" ".join(model.split()),
        table=_table(transcoders),
        repo=json.dumps(repo_id),
        hook=_hook(transcoders),
    )


def _kind(transcoders: TranscoderSet | CrossLayerTranscoder) -> str:
    if isinstance(transcoders, CrossLayerTranscoder):
        return "A cross-layer transcoder for the MLPs"
    saes = [transcoder.cfg.is_sae for transcoder in transcoders.values()]
    return (
        "SAEs" if all(saes) else "Transcoders and SAEs" if any(saes) else "Transcoders for the MLPs"
    )


def _hook(transcoders: TranscoderSet | CrossLayerTranscoder) -> str:
    """The features of the first layer."""
    layer = transcoders.layers[0]
    cfg = (
        transcoders.cfg if isinstance(transcoders, CrossLayerTranscoder) else transcoders[layer].cfg
    )
    if cfg.read != cfg.write:
        return f"blocks.{layer}.mlp.hook_post"
    site = "mlp_out" if cfg.read == "mlp_out_raw" else cfg.read
    return f"{hook_name(site, layer)}.sae.hook_post"


def _table(transcoders: TranscoderSet | CrossLayerTranscoder) -> str:
    if isinstance(transcoders, CrossLayerTranscoder):
        rows = [_row(layer, transcoders.cfg) for layer in transcoders.layers]
    else:
        rows = [_row(layer, transcoder.cfg) for layer, transcoder in transcoders.items()]
    lines = [_COLUMNS, ("---",) * len(_COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _row(layer: int, cfg: TranscoderConfig | CrossLayerConfig) -> tuple[str, ...]:
    skip, folded = ("yes" if flag else "no" for flag in (cfg.skip, cfg.folded))
    widths = (str(layer), str(cfg.d_in), str(cfg.n_features), str(cfg.d_out))
    return (*widths, str(cfg.activation), skip, f"`{cfg.read}`", f"`{cfg.write}`", folded)


def _escaped(text: str) -> str:
    """Text that Markdown and HTML show as it is, on one line."""
    marks = {ord(mark): f"\\{mark}" for mark in "\\`*_[]|#~"}
    return html.escape(" ".join(text.split()).translate(marks))
