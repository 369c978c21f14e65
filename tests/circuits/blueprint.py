"""Hand-built models: named wires in the residual stream, written down and loaded through the real hosts in float64.

A wire is a coordinate of the residual stream; what is written on it is written with the opposite sign on its mirror,
so that the mean of the stream is zero and a norm that subtracts the mean changes nothing. Norms are the identity
unless a blueprint says otherwise: GPT-2's have an epsilon of 2^80 and a gain of 2^40, which is exactly x − mean(x) in
float64; Llama's and Gemma's modules are replaced, because theirs compute in float32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from tests.cases import tokenizer
from tl_transcoders.transcoders import (
    Activation,
    JumpReLU,
    ReLU,
    Transcoder,
    TranscoderConfig,
    TranscoderSet,
)

Wiring = Mapping[str, float]
VOCAB, POSITIONS = 53, 8
FLAT_EPS, FLAT_GAIN = 2.0**80, 2.0**40
RELU = ReLU()


@dataclass(frozen=True)
class Neuron:
    """writes · relu(reads · x + bias)."""

    reads: Wiring
    writes: Wiring
    bias: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Heads (per query head or key-value group, one wiring for every dimension) and neurons.

    The transcoder holds the features and the skip; the MLP computes them too, and `errors` and `constant` besides.
    """

    queries: Mapping[int, Sequence[Wiring]] = field(default_factory=dict)
    keys: Mapping[int, Sequence[Wiring]] = field(default_factory=dict)
    values: Mapping[int, Sequence[Wiring]] = field(default_factory=dict)
    outputs: Mapping[int, Sequence[Wiring]] = field(default_factory=dict)
    features: Sequence[Neuron] = ()
    errors: Sequence[Neuron] = ()
    constant: Wiring = field(default_factory=dict)
    skip: Sequence[Neuron] = ()
    """Each without bias and without relu."""
    activation: Activation = RELU
    threshold: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Blueprint:
    """A model of named wires. `norms` are those that normalise, with their epsilon: `"ln2.0"`, `"ln2_post.1"`."""

    architecture: str
    wires: str
    layers: Sequence[Layer]
    embeds: Mapping[int, Wiring]
    positions: Mapping[int, Wiring] = field(default_factory=dict)
    unembeds: Mapping[int, Wiring]
    d_head: int = 4
    n_heads: int = 2
    n_groups: int = 2
    norms: Mapping[str, float] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return self.wires.split()

    @property
    def heads(self) -> int:
        """GPT-2 needs n_heads · d_head = d_model, so it gets idle heads."""
        return (
            -(-2 * len(self.names) // self.d_head) if self.architecture == "gpt2" else self.n_heads
        )

    @property
    def groups(self) -> int:
        return self.heads if self.architecture == "gpt2" else self.n_groups

    @property
    def d_model(self) -> int:
        return self.heads * self.d_head if self.architecture == "gpt2" else 2 * len(self.names)

    def read(self, wiring: Wiring) -> Tensor:
        """[d_model] that reads a wire where it is written."""
        vector = torch.zeros(self.d_model, dtype=torch.float64)
        for name, weight in wiring.items():
            vector[self.names.index(name)] += weight
        return vector

    def write(self, wiring: Wiring) -> Tensor:
        """[d_model] that writes a wire and its mirror."""
        vector, n = self.read(wiring), len(self.names)
        vector[n : 2 * n] = -vector[:n]
        return vector

    def read_all(self, wirings: Sequence[Wiring], width: int) -> Tensor:
        """[d_model, width], idle columns zero."""
        columns = [self.read(wiring) for wiring in wirings]
        idle = [torch.zeros(self.d_model, dtype=torch.float64)] * (width - len(columns))
        return torch.stack([*columns, *idle], dim=1)

    def write_all(self, wirings: Sequence[Wiring], width: int) -> Tensor:
        """[width, d_model]."""
        rows = [self.write(wiring) for wiring in wirings]
        idle = [torch.zeros(self.d_model, dtype=torch.float64)] * (width - len(rows))
        return torch.stack([*rows, *idle])

    def table(self, wirings: Mapping[int, Wiring], rows: int, *, scale: float = 1.0) -> Tensor:
        """[rows, d_model] of what is written for each token or position."""
        idle = torch.zeros(self.d_model, dtype=torch.float64)
        return torch.stack(
            [self.write(wirings[i]) * scale if i in wirings else idle for i in range(rows)]
        )

    def W_U(self) -> Tensor:
        """[d_model, vocab]."""
        return torch.stack([self.read(self.unembeds.get(i, {})) for i in range(VOCAB)], dim=1)

    def project(self, heads: Mapping[int, Sequence[Wiring]], n: int, *, rotated: bool) -> Tensor:
        """[n, d_model, d_head]; rotary models turn the first dimension of each half, so those stay idle."""
        return torch.stack(
            [self.read_all(self._spread(heads.get(i, ()), rotated), self.d_head) for i in range(n)]
        )

    def _spread(self, wirings: Sequence[Wiring], rotated: bool) -> Sequence[Wiring]:
        if not rotated:
            return wirings
        free = [i for i in range(self.d_head) if i % (self.d_head // 2)]
        assert len(wirings) <= len(free)
        return [
            wirings[free.index(i)] if i in free[: len(wirings)] else {} for i in range(self.d_head)
        ]

    def attention(self, layer: Layer) -> dict[str, Tensor]:
        """`W_Q, W_K, W_V [head, d_model, d_head]` and `W_O [head, d_head, d_model]`."""
        rotated = self.architecture != "gpt2"
        return {
            "W_Q": self.project(layer.queries, self.heads, rotated=rotated),
            "W_K": self.project(layer.keys, self.groups, rotated=rotated),
            "W_V": self.project(layer.values, self.groups, rotated=False),
            "W_O": torch.stack(
                [self.write_all(layer.outputs.get(i, ()), self.d_head) for i in range(self.heads)]
            ),
        }

    def mlp(self, layer: Layer) -> dict[str, Tensor]:
        """`W_in [d_model, d_mlp]`, `b_in`, `W_out [d_mlp, d_model]`, `b_out`; all layers have one width."""
        neurons = neurons_of(layer)
        width = max(1, *(len(neurons_of(other)) for other in self.layers))
        biases = torch.zeros(width, dtype=torch.float64)
        biases[: len(neurons)] = torch.tensor([n.bias for n in neurons], dtype=torch.float64)
        return {
            "W_in": self.read_all([n.reads for n in neurons], width),
            "b_in": biases,
            "W_out": self.write_all([n.writes for n in neurons], width),
            "b_out": self.write(layer.constant),
        }

    def transcoders(self) -> TranscoderSet:
        """The features and skips of every layer that has features."""
        held = {i: layer for i, layer in enumerate(self.layers) if layer.features}
        return TranscoderSet({i: self._transcoder(i, layer) for i, layer in held.items()})

    def _transcoder(self, index: int, layer: Layer) -> Transcoder:
        n, skip = len(layer.features), torch.zeros(self.d_model, self.d_model, dtype=torch.float64)
        for neuron in layer.skip:
            skip += torch.outer(self.read(neuron.reads), self.write(neuron.writes))
        jump = isinstance(layer.activation, JumpReLU)
        return Transcoder(
            TranscoderConfig(
                layer=index,
                d_in=self.d_model,
                d_out=self.d_model,
                n_features=n,
                activation=layer.activation,
                skip=bool(layer.skip),
            ),
            W_enc=self.read_all([f.reads for f in layer.features], n),
            b_enc=torch.tensor([f.bias for f in layer.features], dtype=torch.float64),
            W_dec=self.write_all([f.writes for f in layer.features], n),
            b_dec=torch.zeros(self.d_model, dtype=torch.float64),
            W_skip=skip if layer.skip else None,
            threshold=torch.full((n,), layer.threshold, dtype=torch.float64) if jump else None,
        ).requires_grad_(False)

    @cache  # noqa: B019  # a splice leaves the model as it was, so tests share it
    def bridge(self) -> Any:
        """The model as a TransformerBridge."""
        hf = {"gpt2": _gpt2, "llama": _llama, "gemma3": _gemma3}[self.architecture](self)
        hf.config.architectures = [type(hf).__name__]
        return TransformerBridge.boot_transformers(
            f"truth/{self.architecture}",
            hf_model=hf.eval().requires_grad_(False),
            tokenizer=tokenizer(),
            device="cpu",
            dtype=torch.float64,
        ).eval()

    @cache  # noqa: B019
    def hooked(self) -> Any:
        """The model as a HookedTransformer (transformer-lens 3.9; GPT-2 only)."""
        from tests.circuits.hooked_blueprint import build

        return build(self)


def neurons_of(layer: Layer) -> list[Neuron]:
    """What the MLP computes: features, errors, and two neurons for each skip."""
    both = [
        Neuron(
            {k: sign * w for k, w in s.reads.items()}, {k: sign * w for k, w in s.writes.items()}
        )
        for s in layer.skip
        for sign in (1.0, -1.0)
    ]
    return [*layer.features, *layer.errors, *both]


class WideRMSNorm(nn.Module):
    """RMSNorm with gain 1 in the dtype of its input (Hugging Face's computes in float32).

    Gemma stores a gain as its difference from 1, and TransformerLens rebuilds the norm by what is stored.
    """

    def __init__(self, width: int, eps: float, *, offset: bool) -> None:
        super().__init__()
        self.offset = 1.0 if offset else 0.0
        self.weight = nn.Parameter(torch.full((width,), 1 - self.offset, dtype=torch.float64))
        self.variance_epsilon = self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return (
            x
            * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
            * (self.offset + self.weight)
        )


def _gpt2(plan: Blueprint) -> Any:
    d = plan.d_model
    width = plan.mlp(plan.layers[0])["W_in"].shape[1]
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB,
            n_positions=POSITIONS,
            n_embd=d,
            n_layer=len(plan.layers),
            n_head=plan.heads,
            n_inner=width,
            activation_function="relu",
            layer_norm_epsilon=FLAT_EPS,
            tie_word_embeddings=False,
            attn_implementation="eager",
        )
    ).double()
    core = model.transformer
    with torch.no_grad():
        core.wte.weight.copy_(plan.table(plan.embeds, VOCAB))
        core.wpe.weight.copy_(plan.table(plan.positions, POSITIONS))
        model.lm_head.weight.copy_(plan.W_U().T)
        core.ln_f.weight.fill_(FLAT_GAIN)
        for block, layer in zip(core.h, plan.layers, strict=True):
            block.ln_1.weight.fill_(FLAT_GAIN)
            block.ln_2.weight.fill_(FLAT_GAIN)
            a, m = plan.attention(layer), plan.mlp(layer)
            qkv = [a[name].transpose(0, 1).reshape(d, d) for name in ("W_Q", "W_K", "W_V")]
            block.attn.c_attn.weight.copy_(torch.cat(qkv, dim=1))
            block.attn.c_attn.bias.zero_()
            block.attn.c_proj.weight.copy_(a["W_O"].flatten(0, 1))
            block.attn.c_proj.bias.zero_()
            block.mlp.c_fc.weight.copy_(m["W_in"])
            block.mlp.c_fc.bias.copy_(m["b_in"])
            block.mlp.c_proj.weight.copy_(m["W_out"])
            block.mlp.c_proj.bias.copy_(m["b_out"])
    return model


def _llama(plan: Blueprint) -> Any:
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=plan.d_model,
            intermediate_size=plan.mlp(plan.layers[0])["W_in"].shape[1],
            num_hidden_layers=len(plan.layers),
            num_attention_heads=plan.heads,
            num_key_value_heads=plan.groups,
            head_dim=plan.d_head,
            max_position_embeddings=POSITIONS,
            hidden_act="relu",
            mlp_bias=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1e30},
            tie_word_embeddings=False,
            attn_implementation="eager",
        )
    ).double()
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(plan.table(plan.embeds, VOCAB))
        model.lm_head.weight.copy_(plan.W_U().T)
        for i, (block, layer) in enumerate(zip(model.model.layers, plan.layers, strict=True)):
            m = plan.mlp(layer)
            _attention_linear(block.self_attn, plan.attention(layer))
            block.mlp.gate_proj.weight.copy_(m["W_in"].T)
            block.mlp.gate_proj.bias.copy_(m["b_in"])
            block.mlp.up_proj.weight.zero_()
            block.mlp.up_proj.bias.fill_(1.0)
            block.mlp.down_proj.weight.copy_(m["W_out"].T)
            block.mlp.down_proj.bias.copy_(m["b_out"])
            block.input_layernorm = _norm(plan, f"ln1.{i}")
            block.post_attention_layernorm = _norm(plan, f"ln2.{i}")
    model.model.norm = _norm(plan, "ln_final")
    return model


def _gemma3(plan: Blueprint) -> Any:
    """Without biases in its MLP: neurons read theirs, and the factor of the gate, from the wire `one`."""
    rope = {"rope_type": "default", "rope_theta": 1e30}
    width = plan.mlp(plan.layers[0])["W_in"].shape[1] + 1
    model = Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=VOCAB,
            hidden_size=plan.d_model,
            intermediate_size=width,
            num_hidden_layers=len(plan.layers),
            num_attention_heads=plan.heads,
            num_key_value_heads=plan.groups,
            head_dim=plan.d_head,
            max_position_embeddings=POSITIONS,
            hidden_activation="relu",
            sliding_window=POSITIONS,
            rope_parameters={"full_attention": rope, "sliding_attention": rope},
            tie_word_embeddings=False,
            attn_implementation="eager",
            pad_token_id=VOCAB - 1,
            bos_token_id=VOCAB - 2,
            eos_token_id=VOCAB - 2,
        )
    ).double()
    core, one = model.model, plan.read({"one": 1.0})
    with torch.no_grad():
        scale = float(core.embed_tokens.embed_scale)
        core.embed_tokens.weight.copy_(plan.table(plan.embeds, VOCAB, scale=1 / scale))
        model.lm_head.weight.copy_(plan.W_U().T)
        for i, (block, layer) in enumerate(zip(core.layers, plan.layers, strict=True)):
            m = plan.mlp(layer)
            _attention_linear(block.self_attn, plan.attention(layer))
            reads = m["W_in"].T + torch.outer(m["b_in"], one)
            block.mlp.gate_proj.weight.copy_(torch.cat([reads, one[None]]))
            block.mlp.up_proj.weight.copy_(one.expand(width, -1))
            block.mlp.down_proj.weight.copy_(torch.cat([m["W_out"], m["b_out"][None]]).T)
            block.input_layernorm = _norm(plan, f"ln1.{i}")
            block.post_attention_layernorm = _norm(plan, f"ln1_post.{i}")
            block.pre_feedforward_layernorm = _norm(plan, f"ln2.{i}")
            block.post_feedforward_layernorm = _norm(plan, f"ln2_post.{i}")
    core.norm = _norm(plan, "ln_final")
    return model


def _attention_linear(module: Any, weights: Mapping[str, Tensor]) -> None:
    for name, part in (("W_Q", "q_proj"), ("W_K", "k_proj"), ("W_V", "v_proj")):
        getattr(module, part).weight.copy_(weights[name].transpose(1, 2).flatten(0, 1))
    module.o_proj.weight.copy_(weights["W_O"].flatten(0, 1).T)


def _norm(plan: Blueprint, name: str) -> nn.Module:
    eps = plan.norms.get(name)
    return (
        nn.Identity()
        if eps is None
        else WideRMSNorm(plan.d_model, eps, offset=plan.architecture == "gemma3")
    )
