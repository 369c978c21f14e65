"""Scores as sums of terms: against what the host computes, against removal, and where the circuit is known."""

from math import log
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import Gemma2Config, Gemma2ForCausalLM

from tests.cases import (
    BOS,
    D_MODEL,
    HOSTS,
    N_LAYERS,
    PAD,
    VOCAB,
    Host,
    Kind,
    case_id,
    only_in_the_whole_table,
    tokenizer,
    tokens,
)
from tests.circuits.attention_cases import LAST, PROMPT, SKIP, TOKEN, every_host, spliced_with
from tests.circuits.truth import Truth
from tests.circuits.truths import TRUTHS
from tl_transcoders.circuits.attention import (
    AttentionRow,
    QKAttribution,
    attention_row,
    qk_attribution,
    turned,
)
from tl_transcoders.circuits.attention.apart import split_readings
from tl_transcoders.circuits.attention.memory import COPIES
from tl_transcoders.circuits.graphs import Bias, Difference, Token
from tl_transcoders.circuits.nodes import Embed, Feature, Head
from tl_transcoders.circuits.reference_attention import turned_without
from tl_transcoders.errors import ConfigError, ShapeError, SpliceError
from tl_transcoders.splice import splice
from tl_transcoders.splice.trace.run import Run, capture
from tl_transcoders.transcoders import TopK

pytestmark = only_in_the_whole_table
HEAD = Head(2, 1)
every_truth = pytest.mark.parametrize(("truth", "host"), TRUTHS, ids=case_id)


def scores(model: Any, layer: int) -> Tensor:
    """[head query key] as the host computes them."""
    name = f"blocks.{layer}.attn.hook_attn_scores"
    with torch.no_grad():
        return model.run_with_cache(PROMPT)[1][name][0]


def assert_sums(found: QKAttribution, score: float, tolerance: float) -> None:
    size = max(float(found.terms.abs().sum()), 1e-9)
    assert float(found.terms.double().sum()) == pytest.approx(score, abs=tolerance * size)
    assert float(found.by_key_source.double().sum()) == pytest.approx(score, abs=tolerance * size)
    assert found.gap < tolerance


@every_host
def test_terms_sum_to_the_score_of_the_host(host: Host, kind: Kind) -> None:
    with spliced_with(host, kind, exclude=[BOS]) as spliced:
        run = capture(spliced, PROMPT)
        for head, query, key in (
            (HEAD, -1, 3),
            (HEAD, 4, 4),
            (Head(1, 0), 3, 0),
            (Head(0, 1), 2, 1),
        ):
            found = qk_attribution(spliced, run, head=head, query=query, key=key)
            expected = float(scores(spliced.model, head.layer)[head.head, query, key])
            assert_sums(found, expected, 1e-5)
            assert found.score == pytest.approx(expected, abs=2e-3 * max(1, abs(expected)))


@every_host
def test_a_term_is_what_its_sources_do_to_query_and_key(host: Host, kind: Kind) -> None:
    with spliced_with(host, kind) as spliced:
        run = capture(spliced, PROMPT)
        found = qk_attribution(spliced, run, head=HEAD, query=-1, key=3)
        q, k = (
            [i for i, node in enumerate(nodes) if not isinstance(node, Bias)][::4]
            for nodes in (found.query_sources, found.key_sources)
        )
        expected = products(
            run, [found.query_sources[i] for i in q], [found.key_sources[i] for i in k]
        )
    chosen = found.terms[q][:, k]
    size = float(found.terms.abs().max())
    torch.testing.assert_close(chosen, expected, atol=2e-4 * size, rtol=0)


def products(run: Run, q: Any, k: Any) -> Tensor:
    """c · turned_q · turned_k of sources, each the difference that its removal makes."""
    at_query = torch.stack([turned_without(run, node, HEAD, "q", LAST) for node in q])
    at_key = torch.stack([turned_without(run, node, HEAD, "k", 3) for node in k])
    return run.wirings[HEAD.layer].scale * at_query @ at_key.T


def test_a_changed_weight_is_noticed() -> None:
    model = HOSTS[0].fresh()
    with splice(model, SKIP.build(model), error="keep") as spliced:
        run = capture(spliced, PROMPT)
        found = qk_attribution(spliced, run, head=HEAD, query=-1, key=3)
        with torch.no_grad():
            run.model.anatomy.blocks[2].attention.W_Q.mul_(1.01)
            expected = products(run, found.query_sources[:3], found.key_sources[:3])
            broken = qk_attribution(spliced, run, head=HEAD, query=-1, key=3)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(found.terms[:3, :3], expected, atol=0, rtol=2e-3)
    with pytest.raises(AssertionError):
        assert_sums(broken, found.score, 1e-5)


@every_truth
def test_terms_sum_in_double_precision(truth: Truth, host: str) -> None:
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        run = capture(spliced, truth.base_tokens)
        head, last = Head(len(truth.plan.layers) - 1, 0), run.shape[1] - 1
        for key in range(run.shape[1]):
            found = qk_attribution(spliced, run, head=head, query=last, key=key)
            assert_sums(found, found.score, 1e-12)


@every_host
def test_dimensions_one_by_one_are_the_same(host: Host, kind: Kind) -> None:
    with spliced_with(host, kind) as spliced:
        run = capture(spliced, PROMPT)
        options: Any = {"head": HEAD, "query": -1, "target": TOKEN}
        whole = attention_row(spliced, run, **options)
        narrow = attention_row(spliced, run, **options, memory=1)
    assert narrow.query_sources == whole.query_sources
    for key in (whole.scores != -torch.inf).nonzero()[:, 0].tolist():
        terms = whole.key(key).terms
        size = float(terms.abs().max())
        torch.testing.assert_close(narrow.key(key).terms, terms, atol=1e-6 * size, rtol=1e-5)


@every_host
def test_no_more_dimensions_are_carried_than_fit(
    host: Host, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried: list[int] = []

    def watched(*args: Any) -> Any:
        carried.append(len(args[-1]))
        return split_readings(*args)

    monkeypatch.setattr(turned, "split_readings", watched)
    with spliced_with(host, kind) as spliced:
        run = capture(spliced, PROMPT)
        two = 2 * COPIES * run.embed[0].numel() * run.embed.element_size()
        qk_attribution(spliced, run, head=HEAD, query=-1, key=3, memory=two)
    assert max(carried) == 2
    assert sum(carried) == 2 * run.values["q", HEAD.layer].shape[-1]


def of(name: str) -> Any:
    return pytest.mark.parametrize(
        ("truth", "host"), [case for case in TRUTHS if case[0].name == name], ids=case_id
    )


@of("C-feature-driven-query")
def test_one_pair_of_features_is_the_whole_score(truth: Truth, host: str) -> None:
    """f0.0 at the query looks for what f0.1 wrote at the key: score 1.5 · f0.0 · f0.1."""
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        row = attention_row(spliced, truth.source_tokens, head=Head(1, 0), query=-1)
    found = row.key(1)
    (first, second, term), *rest = found.top(5)
    assert (first, second) == (Feature(0, 0, 3), Feature(0, 1, 1))
    assert term == pytest.approx(3.0, abs=1e-9)
    assert found.score == pytest.approx(3.0, abs=1e-9)
    assert all(abs(other) < 1e-9 for *_, other in rest)
    best = row.top(1)[0]
    assert (best.query_source, best.key_source, best.key) == (first, second, 1)


@of("B-induction")
def test_the_induction_head_looks_for_what_the_head_before_it_wrote(
    truth: Truth, host: str
) -> None:
    with splice(truth.model(host), truth.plan.transcoders(), error="keep") as spliced:
        row = attention_row(
            spliced, truth.source_tokens, head=Head(1, 0), query=-1, target=Difference(30, 31)
        )
    chosen = int(row.pattern.argmax())
    found = row.key(chosen)
    (first, second, term), *_ = found.top(1)
    assert (first, second) == (Embed(5), Head(0, 0, None, chosen))
    assert term == pytest.approx(found.score)


@pytest.fixture(scope="module")
def row() -> AttentionRow:
    with spliced_with(HOSTS[0]) as spliced:
        return attention_row(spliced, PROMPT, head=HEAD, query=-2, target=Token(4, -2))


def test_a_row_is_the_scores_of_its_keys(row: AttentionRow) -> None:
    seen = row.scores[:LAST]
    torch.testing.assert_close(row.pattern[:LAST], seen.softmax(0))
    assert row.pattern[LAST] == 0
    torch.testing.assert_close(row.by_query_source.sum(0)[:LAST], seen, atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError, match="position 6, which position 5 does not see"):
        row.key(LAST)


def test_centred_terms_have_no_mean_and_move_the_output_as_much(row: AttentionRow) -> None:
    torch.testing.assert_close(
        row.centred @ row.pattern, torch.zeros(len(row.query_sources)), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(row.centred @ row.pull, row.query_effects, atol=1e-5, rtol=1e-3)


def test_effects_are_those_of_small_changes_of_the_scores(row: AttentionRow) -> None:
    """A hook adds to the scores of the head, and everything else moves linearly: only the head's path counts."""
    model = HOSTS[0].build()
    step, found = 0.01, []
    with spliced_with(HOSTS[0]) as spliced:
        token = attention_row(spliced, PROMPT, head=HEAD, query=-1, target=Token(4, -1))
        run = token_run(spliced)
        for key in range(LAST + 1):
            base = run.values["pattern", HEAD.layer][0, HEAD.head, -1].double()
            moved = (base.log() + step * torch.eye(LAST + 1)[key]).softmax(0)
            found.append(through_the_head(run, moved - base, token) / step)
    assert model is spliced.model
    expected, size = torch.stack(found), float(token.pull.abs().max())
    torch.testing.assert_close(token.pull.double(), expected, atol=0.02 * size, rtol=0)


def token_run(spliced: Any) -> Run:
    return capture(spliced, PROMPT)


def through_the_head(run: Run, change: Tensor, token: AttentionRow) -> Tensor:
    """What a change of the pattern does to the token's logit, less the mean of all, past a frozen last norm."""
    anatomy = run.model.anatomy
    attention = anatomy.blocks[HEAD.layer].attention
    z = change.float() @ run.values["v", HEAD.layer][0, :, HEAD.head]
    x, dx = run.resid_final[0, -1], z @ attention.W_O[HEAD.head]
    swap = run.model.swaps[HEAD.layer]
    block = anatomy.with_constant_scales().blocks[HEAD.layer]
    assert swap.W_skip is not None
    dx = dx + swap.push(block, run.values["mlp_in", HEAD.layer][0, -1], dx) @ swap.W_skip
    final = anatomy.with_constant_scales().ln_final.push(x, dx) @ anatomy.W_U
    return (final[4] - final.mean()).double()


def test_a_feature_before_the_head_is_no_target() -> None:
    with spliced_with(HOSTS[0]) as spliced, pytest.raises(ConfigError, match="which nothing of"):
        attention_row(spliced, PROMPT, head=HEAD, query=-1, target=Feature(1, 3, 2))


def test_capped_scores_are_refused() -> None:
    hf = Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=VOCAB,
            hidden_size=D_MODEL,
            intermediate_size=29,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=10,
            max_position_embeddings=64,
            attn_implementation="eager",
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=BOS,
        )
    ).eval()
    hf.config.architectures = [type(hf).__name__]
    model = TransformerBridge.boot_transformers(
        "tiny/gemma2", hf_model=hf, tokenizer=tokenizer(), device="cpu"
    )
    with (
        splice(model, SKIP.build(model), error="keep") as spliced,
        pytest.raises(SpliceError, match="capped, 50"),
    ):
        qk_attribution(spliced, PROMPT, head=HEAD, query=-1, key=0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"head": Head(3, 0)}, "layers 0 to 2, 0 to 1"),
        ({"head": Head(0, 2)}, "layers 0 to 2, 0 to 1"),
        ({"head": Head(0, 1, "q")}, "a head of"),
        ({"head": 3}, "a head of"),
        ({"query": 7}, "query: got position 7"),
        ({"key": -8}, "key: got position -8"),
        ({"key": True}, "position True"),
        ({"query": 2, "key": 3}, "position 3, which position 2 does not see"),
    ],
    ids=str,
)
def test_wrong_arguments_are_told(options: dict[str, Any], told: str) -> None:
    given: dict[str, Any] = {"head": HEAD, "query": -1, "key": 3} | options
    with spliced_with(HOSTS[0]) as spliced, pytest.raises(ConfigError, match=told):
        qk_attribution(spliced, PROMPT, **given)


@pytest.mark.usefixtures("unchecked")
def test_wrong_questions_of_a_row_are_told() -> None:
    with spliced_with(HOSTS[0]) as spliced:
        row = attention_row(spliced, PROMPT, head=HEAD, query=2)
        with pytest.raises(ConfigError, match=r"AttentionRow.key: got position 3"):
            row.key(3)
        with pytest.raises(ConfigError, match=r"AttentionRow.top, n"):
            row.top(0)
        with pytest.raises(ConfigError, match=r"QKAttribution.top, n"):
            row.key(1).top(-1)
        with pytest.raises(ConfigError, match="attention_row, target: got token 99"):
            attention_row(spliced, PROMPT, head=HEAD, query=2, target=99)


@pytest.mark.usefixtures("unchecked")
def test_wrong_prompts_and_models_are_told() -> None:
    model = HOSTS[0].build()
    wrong: Any = model
    with pytest.raises(ConfigError, match="a spliced model"):
        qk_attribution(wrong, PROMPT, head=HEAD, query=-1, key=3)
    with spliced_with(HOSTS[0]) as spliced, pytest.raises(ShapeError, match="2 prompts"):
        qk_attribution(spliced, tokens(2), head=HEAD, query=-1, key=3)
    sae = Kind("sae", TopK(5), read="resid_post", write="resid_post", layers=(1,))
    with spliced_with(HOSTS[0], sae) as spliced, pytest.raises(SpliceError, match="SAEs"):
        qk_attribution(spliced, PROMPT, head=HEAD, query=-1, key=3)


def test_a_text_is_a_prompt() -> None:
    with spliced_with(HOSTS[0]) as spliced:
        found = qk_attribution(spliced, "w3 w4 w5", head=HEAD, query=-1, key=0)
        assert Bias(HEAD.layer) in found.query_sources
        assert found.weight == pytest.approx(
            float(
                capture(spliced, spliced.model.to_tokens("w3 w4 w5")).values["pattern", 2][
                    0, 1, -1, 0
                ]
            )
        )
    assert log(found.weight) < 0
