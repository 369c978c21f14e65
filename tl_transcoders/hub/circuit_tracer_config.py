"""`config.yaml` of circuit-tracer's sets: what kind they are, and where they read and write."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Literal, final

from tl_transcoders._types import Site
from tl_transcoders.errors import ConfigError, TranscoderFormatError
from tl_transcoders.hub.request import Request

CONFIG = "config.yaml"

Kind = Literal["transcoder_set", "cross_layer_transcoder"]

KINDS: Mapping[str, Kind] = {
    "transcoder_set": "transcoder_set",
    "cross_layer_transcoder": "cross_layer_transcoder",
}
READS: Mapping[str, Site] = {
    "mlp.hook_in": "mlp_in",
    "ln2.hook_normalized": "ln2_normalized",
    "hook_resid_mid": "resid_mid",
}
WRITES: Mapping[str, Site] = {"hook_mlp_out": "mlp_out", "mlp.hook_out": "mlp_out_raw"}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitTracerConfig:
    """What `config.yaml` says.

    **Arguments:** `transcoders`, the file of every layer, where the config lists them: names relative to the
    config, or `hf://org/repo/path?revision=…`.
    """

    model_name: str | None
    kind: Kind
    read: Site
    write: Site
    transcoders: tuple[str, ...] | None


def config_from_dict(where: str, data: Mapping[str, object]) -> CircuitTracerConfig:
    """Check the keys circuit-tracer reads and leave the others; raises TranscoderFormatError."""
    kind = data.get("model_kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise _wrong(where, "model_kind", kind, " or ".join(KINDS))
    name = data.get("model_name")
    if not isinstance(name, str | None):
        raise _wrong(where, "model_name", name, "a name")
    return CircuitTracerConfig(
        model_name=name,
        kind=KINDS[kind],
        read=_site(where, "feature_input_hook", data, READS),
        write=_site(where, "feature_output_hook", data, WRITES),
        transcoders=_listed(where, data.get("transcoders")),
    )


def choose_folder(files: Set[str], request: Request, where: str) -> str:
    """Which folder's `config.yaml` is asked for, as a prefix of its files: `""`, or `"clt/width_16k/"`.

    A repository with several names them by kind, width and L0; `kind` may also be the whole folder.

    **Raises:** ConfigError where not exactly one fits.
    """
    if CONFIG in files:
        request.refuse_variants(where)
        return ""
    folders = sorted(name.removesuffix(CONFIG) for name in files if name.endswith(f"/{CONFIG}"))
    fitting = [folder for folder in folders if _fits(folder, request)]
    if len(fitting) != 1:
        raise ConfigError(
            where,
            got=f"kind={request.kind!r}, width={request.width!r}, l0={request.l0!r}, "
            f"which fits {len(fitting)} of its sets",
            expected=f"a choice of one of {', '.join(folder.rstrip('/') for folder in folders[:50])}",
            do="Pass kind=, width= and l0=, or the whole folder as kind=.",
        )
    return fitting[0]


def _fits(folder: str, request: Request) -> bool:
    if request.kind == folder.rstrip("/"):
        return True
    words = f"_{folder.replace('/', '_')}"
    return (
        (request.kind is None or folder.startswith(f"{request.kind}/"))
        and (request.width is None or f"_width_{request.width}_" in words)
        and (request.l0 is None or f"_l0_{request.l0}_" in words)
    )


def _site(where: str, key: str, data: Mapping[str, object], sites: Mapping[str, Site]) -> Site:
    hook = data.get(key)
    if not isinstance(hook, str) or hook not in sites:
        raise _wrong(where, key, hook, f"one of {', '.join(sites)}")
    return sites[hook]


def _listed(where: str, files: object) -> tuple[str, ...] | None:
    if files is None:
        return None
    if not isinstance(files, list) or not files or not all(isinstance(f, str) for f in files):
        raise _wrong(where, "transcoders", files, "a list with the file of every layer")
    return tuple(files)


def _wrong(where: str, key: str, value: object, expected: str) -> TranscoderFormatError:
    shown = repr(value)
    return TranscoderFormatError(
        f"{where}, {key}",
        got=shown if len(shown) <= 100 else f"{shown[:100]}…",
        expected=expected,
        do="Correct the config, or ask the author of the set what it was trained on.",
    )
