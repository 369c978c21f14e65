"""SAELens' configs before version 6: one flat object, in which training settings stand beside the rest."""

from tl_transcoders.hub.fields import Fields

_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_METADATA = (
    "model_name hook_name hook_name_out hook_head_index hook_head_index_out hf_hook_name "
    "hf_hook_name_out model_from_pretrained_kwargs"
).split()
_KEPT = (
    "d_in d_sae d_out apply_b_dec_to_input reshape_activations rescale_acts_by_decoder_norm use_b_dec_out"
).split()
_ACTIVATIONS = ("relu", "topk")


def migrated(flat: Fields) -> Fields:
    """The same config as version 6 writes it; keys of training, which change nothing afterwards, are left out."""
    data = {_RENAMED.get(name, name): value for name, value in flat.data.items()}
    nested = flat.nested("metadata").data
    fields = Fields(flat.where, {**nested, **data})
    metadata = {name: fields.data[name] for name in _METADATA if name in fields.data}
    kept = {name: data[name] for name in _KEPT if name in data}
    return Fields(
        flat.where,
        {
            **kept,
            **_architecture(fields),
            "normalize_activations": _norm(fields),
            "metadata": metadata,
        },
    )


def _architecture(fields: Fields) -> dict[str, object]:
    name = fields.text_or_none("architecture") or "standard"
    activation = fields.text_or_none("activation_fn") or "relu"
    if activation not in _ACTIVATIONS:
        raise fields.wrong(
            "activation_fn",
            expected=f"one of {', '.join(_ACTIVATIONS)}",
            do="It cannot be loaded: this activation has no equal among ours.",
        )
    if activation == "topk":
        kwargs = fields.nested("activation_fn_kwargs")
        return {"architecture": "topk", "k": kwargs.integer("k")}
    k = {"k": fields.integer("k")} if name == "topk" else {}
    return {"architecture": name, **k}


def _norm(fields: Fields) -> object:
    """Bare booleans stand for what later versions name."""
    given = fields.data.get("normalize_activations")
    return (
        {True: "expected_average_only_in", False: "none"}[given]
        if isinstance(given, bool)
        else given
    )
