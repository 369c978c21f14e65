"""The model card of a published set."""

import html
import json

import yaml

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

{kind} for the MLPs of {model}, saved with tl_transcoders.

{table}

A folded set was trained on a model whose norm gains are folded into its weights.

## Use

```python
import tl_transcoders as tlt

transcoders = tlt.load({repo})
with tlt.splice(model, transcoders):  # model: a HookedTransformer or TransformerBridge of {model_text}
    logits, cache = model.run_with_cache("The capital of France is")
cache["blocks.{layer}.mlp.hook_post"]  # feature activations [batch pos feature]
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
        kind="A cross-layer transcoder" if cross_layer else "Transcoders",
        model=_escaped(model),
        model_text=" ".join(model.split()),
        table=_table(transcoders),
        repo=json.dumps(repo_id),
        layer=transcoders.layers[0],
    )


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
