"""The public sets this package knows by name.

Names follow SAELens where it has the set. Repositories, layers, widths and L0s are those of SAELens 6.54.12's
list, of circuit-tracer's and sparsify's documentation, and of the sets' own pages.
"""

from tl_transcoders.hub.release import Release

_GEMMA_3_LAYERS = {"270m": 18, "1b": 26, "4b": 34, "12b": 48, "27b": 62}
_GEMMA_3_CHOSEN_LAYERS = {
    "270m": (5, 9, 12, 15),
    "1b": (7, 13, 17, 22),
    "4b": (9, 17, 22, 29),
    "12b": (12, 24, 31, 41),
    "27b": (16, 31, 40, 53),
}
_WITHOUT_CHOSEN_LAYERS = {("270m", "pt"), ("27b", "pt")}
_WITH_CLT = ("270m", "1b")
_QWEN_3_LAYERS = {"0.6b": 28, "1.7b": 28, "4b": 36, "8b": 36, "14b": 40}
_QWEN_3_SETS = ("0.6b-lowl0", "1.7b-lowl0", "4b", "8b", "14b", "14b-lowl0")


def _layers(n: int) -> tuple[int, ...]:
    return tuple(range(n))


GPT_2 = (
    Release(
        name="gpt2-dunefsky",
        repo="pchlenski/gpt2-transcoders",
        revision="4f3ca345572ce2d75018a60d10b4dca8bd899e99",
        model="openai-community/gpt2",
        structure="transcoder",
        layers=_layers(12),
        widths=("24576",),
        read="ln2_normalized",
        write="mlp_out",
        folded=True,
        format="dunefsky",
    ),
    Release(
        name="gpt2-clt-noskip-ef128-k16",
        repo="EleutherAI/gpt2-clt-noskip-ef128-k16",
        model="openai-community/gpt2",
        structure="cross-layer transcoder",
        layers=_layers(12),
        format="clt-training",
    ),
)

GEMMA_2 = (
    Release(
        name="gemma-scope-2b-pt-transcoders",
        repo="google/gemma-scope-2b-pt-transcoders",
        model="google/gemma-2-2b",
        structure="transcoder",
        layers=_layers(26),
        widths=("16k",),
        l0s=("~100",),
        read="ln2_normalized",
        write="mlp_out",
        format="Gemma Scope",
        licence="cc-by-4.0",
        note="l0='~100': in each layer the one nearest to 100",
    ),
    Release(
        name="gemma-scope-transcoders-mwhanna",
        repo="mwhanna/gemma-scope-transcoders",
        model="google/gemma-2-2b",
        structure="transcoder",
        layers=_layers(26),
        widths=("16k",),
        read="ln2_normalized",
        write="mlp_out",
        format="circuit-tracer",
        note="files of google/gemma-scope-2b-pt-transcoders: name it in trust=",
    ),
    Release(
        name="gemma-scope-transcoders-mntss",
        repo="mntss/gemma-scope-transcoders",
        model="google/gemma-2-2b",
        structure="transcoder",
        layers=_layers(26),
        widths=("16k",),
        read="ln2_normalized",
        write="mlp_out",
        format="circuit-tracer",
        note="files of google/gemma-scope-2b-pt-transcoders: name it in trust=",
    ),
    Release(
        name="gemma-2-2b-skip-mntss",
        repo="mntss/skip-transcoders-gemma-2-2b",
        model="google/gemma-2-2b",
        structure="skip transcoder",
        layers=_layers(26),
        format="circuit-tracer",
    ),
    Release(
        name="gemma-2-2b-clt-426k",
        repo="mntss/clt-gemma-2-2b-426k",
        model="google/gemma-2-2b",
        structure="cross-layer transcoder",
        layers=_layers(26),
        widths=("16k",),
        read="resid_mid",
        write="mlp_out",
        format="circuit-tracer",
    ),
    Release(
        name="gemma-2-2b-clt-2.5m",
        repo="mntss/clt-gemma-2-2b-2.5M",
        model="google/gemma-2-2b",
        structure="cross-layer transcoder",
        layers=_layers(26),
        widths=("98k",),
        read="resid_mid",
        write="mlp_out",
        format="circuit-tracer",
        note="160 GiB",
    ),
)


def _gemma_3_model(size: str, tuning: str) -> str:
    plain = size == "270m" and tuning == "pt"
    return f"google/gemma-3-{size}" if plain else f"google/gemma-3-{size}-{tuning}"


def _every_layer(size: str, tuning: str) -> Release:
    return Release(
        name=f"gemma-scope-2-{size}-{tuning}-transcoders-all",
        repo=f"google/gemma-scope-2-{size}-{tuning}",
        model=_gemma_3_model(size, tuning),
        structure="transcoder",
        layers=_layers(_GEMMA_3_LAYERS[size]),
        kinds=("transcoder_all", "transcoder_all_affine"),
        widths=("16k", "262k"),
        l0s=("small", "big"),
        read="mlp_in",
        write="mlp_out",
        format="Gemma Scope 2",
    )


def _chosen_layers(size: str, tuning: str) -> Release:
    return Release(
        name=f"gemma-scope-2-{size}-{tuning}-transcoders",
        repo=f"google/gemma-scope-2-{size}-{tuning}",
        model=_gemma_3_model(size, tuning),
        structure="transcoder",
        layers=_GEMMA_3_CHOSEN_LAYERS[size],
        kinds=("transcoder", "transcoder_affine"),
        widths=("16k", "65k", "262k"),
        l0s=("small", "medium", "big"),
        read="mlp_in",
        write="mlp_out",
        format="Gemma Scope 2",
    )


def _clt(size: str, tuning: str) -> Release:
    return Release(
        name=f"gemma-scope-2-{size}-{tuning}-clt",
        repo=f"google/gemma-scope-2-{size}-{tuning}",
        model=_gemma_3_model(size, tuning),
        structure="cross-layer transcoder",
        layers=_layers(_GEMMA_3_LAYERS[size]),
        kinds=("clt", "clt_affine"),
        widths=("262k",),
        l0s=("medium",),
        read="mlp_in",
        write="mlp_out",
        format="Gemma Scope 2",
    )


GEMMA_3 = tuple(
    make(size, tuning)
    for size in _GEMMA_3_LAYERS
    for tuning in ("pt", "it")
    for make in (_every_layer, _chosen_layers, _clt)
    if not (make is _chosen_layers and (size, tuning) in _WITHOUT_CHOSEN_LAYERS)
    if not (make is _clt and size not in _WITH_CLT)
)


def _qwen_3(of: str) -> Release:
    size, _, low = of.partition("-")
    suffix = f"-{low}" if low else ""
    return Release(
        name=f"mwhanna-qwen3-{size}-transcoders{suffix}",
        repo=f"mwhanna/qwen3-{size}-transcoders{suffix}",
        model=f"Qwen/Qwen3-{size.upper()}",
        structure="transcoder",
        layers=_layers(_QWEN_3_LAYERS[size]),
        read="mlp_in",
        write="mlp_out_raw",
        format="circuit-tracer",
    )


QWEN_3 = (
    *map(_qwen_3, _QWEN_3_SETS),
    Release(
        name="qwen3-4b-skip-mntss",
        repo="mntss/skip-transcoders-qwen-3-4b",
        model="Qwen/Qwen3-4B",
        structure="skip transcoder",
        layers=_layers(36),
        format="circuit-tracer",
    ),
)

LLAMA_3 = (
    Release(
        name="llama-3.2-1b-mntss",
        repo="mntss/transcoder-Llama-3.2-1B",
        model="meta-llama/Llama-3.2-1B",
        structure="transcoder",
        layers=_layers(16),
        read="resid_mid",
        write="mlp_out_raw",
        format="circuit-tracer",
    ),
    Release(
        name="llama-3.2-1b-skip-mntss",
        repo="mntss/skip-transcoder-Llama-3.2-1B-131k-nobos",
        revision="new-training",
        model="meta-llama/Llama-3.2-1B",
        structure="skip transcoder",
        layers=_layers(16),
        widths=("131k",),
        format="circuit-tracer",
        note="new-training is a branch; trained without BOS",
    ),
    Release(
        name="llama-3.2-1b-clt-524k",
        repo="mntss/clt-llama-3.2-1b-524k",
        model="meta-llama/Llama-3.2-1B",
        structure="cross-layer transcoder",
        layers=_layers(16),
        widths=("32k",),
        read="resid_mid",
        write="mlp_out",
        format="circuit-tracer",
    ),
    Release(
        name="llama-3.2-1b-skip-eleuther",
        repo="EleutherAI/skip-transcoder-Llama-3.2-1B-131k",
        model="meta-llama/Llama-3.2-1B",
        structure="skip transcoder",
        layers=_layers(16),
        widths=("131k",),
        read="mlp_in",
        write="mlp_out_raw",
        format="sparsify",
    ),
    Release(
        name="llama-3.1-8b-crv",
        repo="facebook/crv-8b-instruct-transcoders",
        model="meta-llama/Llama-3.1-8B-Instruct",
        structure="transcoder",
        layers=_layers(32),
        format="circuit-tracer",
        note="TopK",
    ),
)

SMOLLM_2 = (
    Release(
        name="smollm2-135m-skip-eleuther",
        repo="EleutherAI/skip-transcoder-SmolLM2-135M-128x",
        model="HuggingFaceTB/SmolLM2-135M",
        structure="skip transcoder",
        layers=_layers(30),
        widths=("73728",),
        read="mlp_in",
        write="mlp_out_raw",
        format="sparsify",
        note='its card says "trained with input and output normalized": check before use',
    ),
    Release(
        name="smollm2-135m-clt",
        repo="nev/SmolLM2-CLT-135M-73k-k32",
        model="HuggingFaceTB/SmolLM2-135M",
        structure="cross-layer transcoder",
        layers=_layers(30),
        widths=("73728",),
        read="mlp_in",
        write="mlp_out_raw",
        format="clt-training",
    ),
)

GPT_OSS = (
    Release(
        name="gpt-oss-20b-clt-131k",
        repo="mntss/clt-131k",
        model="openai/gpt-oss-20b",
        structure="cross-layer transcoder",
        layers=_layers(24),
        read="resid_mid",
        write="mlp_out",
        format="circuit-tracer",
        note="of a mixture of experts, which splice refuses",
    ),
)

RELEASES: tuple[Release, ...] = (
    *GPT_2,
    *GEMMA_2,
    *GEMMA_3,
    *QWEN_3,
    *LLAMA_3,
    *SMOLLM_2,
    *GPT_OSS,
)
