"""The case table: architecture × host × transcoder kind, on tiny random models built offline."""

import importlib.util
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tl_transcoders._types import Site
from tl_transcoders.hosts import resolve_host
from tl_transcoders.transcoders import (
    Activation,
    BatchTopK,
    CrossLayerConfig,
    CrossLayerTranscoder,
    JumpReLU,
    ReLU,
    TopK,
    Transcoder,
    TranscoderConfig,
    TranscoderSet,
)

HAS_HOOKED_TRANSFORMER = importlib.util.find_spec("transformer_lens.HookedTransformer") is not None
N_LAYERS, D_MODEL, FEATURES, BATCH, POS = 3, 20, 37, 3, 7
VOCAB, BOS, PAD = 53, 51, 52


# models


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(51)} | {"<bos>": BOS, "<pad>": PAD}
    core = Tokenizer(models.WordLevel(words, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<bos>", "eos_token": "<bos>", "pad_token": "<pad>", "unk_token": "w0"}
    folder = tempfile.mkdtemp(prefix="tiny-tokenizer-")
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def _llama() -> nn.Module:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=D_MODEL,
            intermediate_size=29,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            attn_implementation="eager",
        )
    )


def _gpt2() -> nn.Module:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB,
            n_positions=64,
            n_embd=D_MODEL,
            n_layer=N_LAYERS,
            n_head=2,
            n_inner=29,
            attn_implementation="eager",
        )
    )


def _neox() -> nn.Module:
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCAB,
            hidden_size=D_MODEL,
            intermediate_size=29,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=2,
            max_position_embeddings=64,
            attn_implementation="eager",
        )
    )


def _gemma3() -> nn.Module:
    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=VOCAB,
            hidden_size=D_MODEL,
            intermediate_size=29,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=10,
            max_position_embeddings=64,
            sliding_window=5,
            attn_implementation="eager",
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=BOS,
        )
    )


HF: dict[str, Callable[[], nn.Module]] = {
    "gpt2": _gpt2,
    "llama-gqa": _llama,
    "neox": _neox,
    "gemma3": _gemma3,
}


def hf_model(architecture: str, seed: int = 0) -> Any:
    """A random model whose norms have gains and biases worth folding."""
    torch.manual_seed(seed)
    model = HF[architecture]().eval()
    model.config.architectures = [type(model).__name__]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            elif "embed" not in name and "wte" not in name:
                parameter.mul_(4)
    return model


SHARED: dict[str, list[tuple[Tensor, int]]] = {}
"""The weights of the models that tests share, and how often each had been written to when it was built."""


@dataclass(frozen=True)
class Host:
    """One way to load a model."""

    architecture: str
    kind: str  # "bridge" or "hooked"
    processed: bool

    def __str__(self) -> str:
        return f"{self.architecture}-{self.kind}-{'processed' if self.processed else 'raw'}"

    @cache  # noqa: B019  # a splice must leave the model as it was, so tests may share it
    def build(self) -> Any:
        """The model; shared between tests, because a splice leaves it as it was."""
        model = self.fresh()
        SHARED[str(self)] = [(weight, weight._version) for weight in model.parameters()]
        return model

    def fresh(self) -> Any:
        """A model of its own, for tests that change it."""
        hf = hf_model(self.architecture)
        if self.kind == "bridge":
            bridge = TransformerBridge.boot_transformers(
                f"tiny/{self.architecture}", hf_model=hf, tokenizer=tokenizer(), device="cpu"
            )
            if self.processed:
                bridge.enable_compatibility_mode(disable_warnings=True)
            return bridge.eval()
        from tests.hooked_models import build_hooked

        return build_hooked(self.architecture, self.processed)


WHOLE_TABLE = "TLT_WHOLE_TABLE" in os.environ
"""Whether every kind runs on every host (make test-table), or a part of the table in which each meets each (make test)."""
THOROUGH = [Host("gpt2", "bridge", False), Host("gemma3", "bridge", False)]

HOSTS = [Host(a, "bridge", p) for a in HF for p in (False, True)]
if HAS_HOOKED_TRANSFORMER:
    bridges = HOSTS if WHOLE_TABLE else THOROUGH  # the others ran on the newer line
    HOSTS = bridges + [Host(a, "hooked", p) for a in HF for p in (False, True)]


# transcoders

RELU = ReLU()


@dataclass(frozen=True)
class Kind:
    """One sort of transcoder."""

    name: str
    activation: Activation = RELU
    skip: bool = False
    read: Site = "mlp_in"
    write: Site = "mlp_out_raw"
    cross_layer: bool = False
    layers: tuple[int, ...] = (0, 1, 2)

    def __str__(self) -> str:
        return self.name

    def build(self, model: Any, seed: int = 0) -> TranscoderSet | CrossLayerTranscoder:
        host = resolve_host(model)
        common = {
            "n_features": FEATURES,
            "activation": self.activation,
            "skip": self.skip,
            "read": self.read,
            "write": self.write,
            "folded": host.folded,
        }
        if self.cross_layer:
            width = host.d_model
            cfg = CrossLayerConfig(layers=self.layers, d_in=width, d_out=width, **common)
            return randomise(CrossLayerTranscoder.init(cfg, seed=seed))
        return TranscoderSet(
            {
                layer: randomise(
                    Transcoder.init(
                        TranscoderConfig(
                            layer=layer,
                            d_in=host.site_width(self.read, layer),
                            d_out=host.site_width(self.write, layer),
                            **common,
                        ),
                        seed=seed + layer,
                    )
                )
                for layer in self.layers
            }
        )


def randomise(module: Any) -> Any:
    """Give biases, thresholds and skips values that matter."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1 or "W_skip" in name:
                parameter.add_(torch.rand_like(parameter) * 0.2)
    return module.requires_grad_(False)


def tokens(batch: int = BATCH, pos: int = POS, seed: int = 1) -> torch.Tensor:
    """Random prompts that begin with BOS."""
    ids = torch.randint(0, 50, (batch, pos), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = BOS
    return ids


def applies(host: Host, kind: Kind) -> bool:
    """Whether the architecture has the sites the kind needs (NeoX blocks have no resid_mid)."""
    return not (host.architecture == "neox" and "resid_mid" in (kind.read, kind.write))


def case_id(value: object) -> str:
    """Readable test names."""
    return str(value)


KINDS = [
    Kind("relu"),
    Kind("jumprelu", JumpReLU()),
    Kind("topk", TopK(5)),
    Kind("batchtopk", BatchTopK(5)),
    Kind("skip", TopK(5), skip=True),
    Kind("relu-skip", skip=True, layers=(1,)),
    Kind("ln2_normalized", TopK(5), read="ln2_normalized"),
    Kind("resid_mid", TopK(5), read="resid_mid"),
    Kind("after-post-norm", TopK(5), skip=True, write="mlp_out"),
    Kind("two-layers", TopK(5), layers=(0, 2)),
    Kind("clt", TopK(5), cross_layer=True),
    Kind("clt-skip-relu", skip=True, cross_layer=True, layers=(0, 2), write="mlp_out"),
    Kind("clt-resid_mid", JumpReLU(), cross_layer=True, read="resid_mid"),
    Kind("sae-resid_pre", read="resid_pre", write="resid_pre"),
    Kind("sae-resid_mid", TopK(5), read="resid_mid", write="resid_mid"),
    Kind("sae-resid_post", TopK(5), read="resid_post", write="resid_post"),
    Kind("sae-attn_out", TopK(5), read="attn_out", write="attn_out"),
    Kind("sae-mlp_out", TopK(5), read="mlp_out", write="mlp_out"),
    Kind("sae-z", TopK(5), read="z", write="z"),
]


def _in_this_run(i: int, host: Host, j: int) -> bool:
    return WHOLE_TABLE or host in THOROUGH or (i + j) % 6 == 0


CASES = [
    (host, kind)
    for i, host in enumerate(HOSTS)
    for j, kind in enumerate(KINDS)
    if applies(host, kind) and _in_this_run(i, host, j)
]

only_in_the_whole_table = pytest.mark.cases if WHOLE_TABLE else pytest.mark.slow_on_3_9
"""For tests that `make test` runs on the newer line alone, to be done in time."""
