"""Interventions while the host runs, and with everything but direct effects frozen."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import tl_transcoders as tlt
from tests.cases import (
    CASES,
    D_MODEL,
    HOSTS,
    THOROUGH,
    Host,
    Kind,
    case_id,
    only_in_the_whole_table,
    tokens,
)
from tl_transcoders.circuits.interventions.live import hook_point_of
from tl_transcoders.circuits.nodes import Error, Feature, Head, Mlp, Node
from tl_transcoders.splice import Spliced, splice
from tl_transcoders.splice.trace.run import capture
from tl_transcoders.transcoders import TopK

every_case = pytest.mark.parametrize(("host", "kind"), CASES, ids=case_id)
every_host = pytest.mark.parametrize("host", HOSTS, ids=case_id)
TOPK = Kind("topk", TopK(5), skip=True)
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
SETTINGS: dict[str, Any] = {
    "max_new_tokens": 4,
    "do_sample": False,
    "verbose": False,
    "stop_at_eos": False,
}

pytestmark = only_in_the_whole_table


def last(logits: Tensor) -> Tensor:
    return logits[:, -1, 5] - logits[:, -1, 9]


def by_hand(spliced: Spliced, node: Any, ids: Tensor, edit: Callable[[Tensor], Tensor]) -> Tensor:
    """Logits with the value of a node `[batch pos ...]` edited by a plain TransformerLens hook."""

    def hook(value: Tensor, hook: Any) -> Tensor:
        shaped = value.clone()
        if isinstance(node, Feature):
            shaped[..., node.index] = edit(shaped[..., node.index])
        elif isinstance(node, Head):
            heads = shaped.view(*shaped.shape[:2], 2, -1)
            heads[:, :, node.head] = edit(heads[:, :, node.head])
        else:
            shaped = edit(shaped)
        return shaped

    name = hook_point_of(spliced, node).name
    with torch.no_grad():
        return spliced.model.run_with_hooks(ids, fwd_hooks=[(name, hook)], return_type="logits")


def only(columns: Any, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def edit(value: Tensor) -> Tensor:
        value = value.clone()
        value[:, columns] = change(value[:, columns])
        return value

    return edit


def active_feature(spliced: Spliced, layer: int, ids: Tensor) -> int:
    """A feature of a layer that fires somewhere on these prompts."""
    features = capture(spliced, ids).values["features", layer].to_dense()
    return int((features > 0).sum((0, 1)).argmax())


@every_case
def test_an_edit_equals_the_same_edit_by_a_hand_written_hook(host: Host, kind: Kind) -> None:
    model = host.build()
    with splice(model, kind.build(model), error="keep") as spliced:
        layer = spliced.layers[0]
        nodes: list[Any] = [Feature(layer, 3), Error(layer), Mlp(layer)]
        # An SAE at z reads heads before hooks on hook_z see its reconstruction.
        nodes += [] if kind.read == "z" else [Head(layer, 1)]
        for node in nodes:
            if isinstance(node, Feature):
                done = tlt.intervene(spliced, tokens(), {node: tlt.Add(0.7)})
                expected = by_hand(spliced, node, tokens(), lambda value: value + 0.7)
            else:
                done = tlt.intervene(spliced, tokens(), {node: tlt.Scale(1.7)})
                expected = by_hand(spliced, node, tokens(), lambda value: value * 1.7)
            torch.testing.assert_close(done.logits, expected, **CLOSE)
            torch.testing.assert_close(done.base, by_hand(spliced, node, tokens(), lambda v: v))
            assert not torch.allclose(done.logits, done.base, atol=1e-4), node


EDITS: list[tuple[Callable[..., Any], Callable[[Tensor], Tensor]]] = [
    (lambda at: tlt.Set(1.5, at=at), lambda v: torch.full_like(v, 1.5)),
    (lambda at: tlt.Add(-0.5, at=at), lambda v: v - 0.5),
    (lambda at: tlt.Scale(3.0, at=at), lambda v: v * 3),
    (lambda at: tlt.Ablate(at=at), torch.zeros_like),
]
POSITIONS: list[tuple[int | None, slice | None, list[int]]] = [
    (4, None, [4]),
    (-1, None, [6]),
    (None, slice(2, None), [2, 3, 4, 5, 6]),
    (None, slice(-3, -1), [4, 5]),
]


@pytest.mark.cases
@pytest.mark.parametrize(
    "host",
    [pytest.param(h, marks=() if h in THOROUGH else pytest.mark.slow) for h in HOSTS],
    ids=case_id,
)
def test_every_edit_at_every_kind_of_position(host: Host) -> None:
    model = host.build()
    with splice(model, TOPK.build(model)) as spliced:
        index = active_feature(spliced, 1, tokens())
        for (edit, change), (pos, at, columns) in product(EDITS, POSITIONS):
            for node in (Feature(1, index, pos), Head(2, 0, None, pos)):
                done = tlt.intervene(spliced, tokens(), {node: edit(at)})
                expected = by_hand(spliced, node, tokens(), only(columns, change))
                torch.testing.assert_close(done.logits, expected, **CLOSE)


@every_host
def test_patches_come_from_the_source_run(host: Host) -> None:
    model = host.build()
    base, source = tokens(seed=1), tokens(seed=2)
    with splice(model, TOPK.build(model), error="keep") as spliced:
        index = active_feature(spliced, 1, source)
        nodes: list[Any] = [Feature(1, index), Head(0, 1), Error(2), Mlp(1)]
        for node in nodes:
            name = hook_point_of(spliced, node).name
            _, cache = model.run_with_cache(source, names_filter=name)
            theirs = cache[name]
            if isinstance(node, Feature):
                theirs = theirs[..., node.index]
            if isinstance(node, Head):
                theirs = theirs.view(*source.shape, 2, -1)[:, :, node.head]
            done = tlt.intervene(spliced, base, {node: tlt.Patch(source)})
            expected = by_hand(spliced, node, base, lambda _, theirs=theirs: theirs)
            torch.testing.assert_close(done.logits, expected, **CLOSE)
            assert done.effect(last).abs().max() > 0


@every_host
def test_everything_patched_at_layer_zero_and_the_embedding_alike_is_the_source_run(
    host: Host,
) -> None:
    model = host.build()
    base, source = tokens(seed=1), tokens(seed=1)
    source[:, 3] = tokens(seed=2)[:, 3]
    with splice(model, TOPK.build(model)) as spliced:
        last_layer: dict[Node, Any] = {Mlp(layer): tlt.Patch(source) for layer in range(3)}
        last_layer |= {Head(layer, h): tlt.Patch(source) for layer in range(3) for h in range(2)}
        done = tlt.intervene(spliced, base, last_layer)
        with torch.no_grad():
            expected = model(source, return_type="logits")
    # Where both prompts have the same token, writers are all that differs.
    torch.testing.assert_close(done.logits[:, 4:], expected[:, 4:], **CLOSE)


@every_host
def test_edits_that_change_nothing_give_the_base_run(host: Host) -> None:
    model = host.build()
    with splice(model, TOPK.build(model), error="keep") as spliced:
        edits: dict[Node, Any] = {
            Feature(1, 3): tlt.Add(0.0),
            Head(1, 0): tlt.Scale(1.0),
            Error(2): tlt.Patch(tokens()),
        }
        for constrained in (False, True):
            done = tlt.intervene(spliced, tokens(), edits, constrained=constrained)
            torch.testing.assert_close(done.logits, done.base, atol=1e-4, rtol=0)
            none = tlt.intervene(spliced, tokens(), {}, constrained=constrained)
            torch.testing.assert_close(none.logits, none.base, atol=1e-5, rtol=0)


@every_host
def test_strengths_run_side_by_side(host: Host) -> None:
    model = host.build()
    factors, amounts = torch.tensor([0.0, 1.0, 2.5]), torch.randn(3, 10)
    with splice(model, TOPK.build(model), error="keep") as spliced:
        index = active_feature(spliced, 1, tokens())
        edits: dict[Node, Any] = {
            Feature(1, index): tlt.Scale(factors),
            Head(0, 1): tlt.Add(amounts),
        }
        for constrained in (False, True):
            done = tlt.intervene(spliced, tokens(), edits, constrained=constrained)
            assert done.logits.shape[:3] == (3, *tokens().shape)
            for i in range(3):
                single: dict[Node, Any] = {
                    Feature(1, index): tlt.Scale(float(factors[i])),
                    Head(0, 1): tlt.Add(amounts[i]),
                }
                one = tlt.intervene(spliced, tokens(), single, constrained=constrained)
                torch.testing.assert_close(done.logits[i], one.logits, **CLOSE)
                torch.testing.assert_close(done.effect(last)[i], one.effect(last), **CLOSE)


@pytest.mark.parametrize("mask", [False, True])
def test_strengths_run_one_by_one_where_the_splice_is_bound_to_the_prompts(mask: bool) -> None:
    model = HOSTS[0].build()
    excluded = tokens() == tokens()[0, 0]
    settings: dict[str, Any] = (
        {"exclude": excluded} if mask else {"error": "freeze", "base": tokens()}
    )
    with splice(model, TOPK.build(model), **settings) as spliced:
        done = tlt.intervene(spliced, tokens(), {Mlp(1): tlt.Scale(torch.tensor([1.0, 2.0]))})
        one = tlt.intervene(spliced, tokens(), {Mlp(1): tlt.Scale(2.0)})
    torch.testing.assert_close(done.logits[0], done.base, **CLOSE)
    torch.testing.assert_close(done.logits[1], one.logits, **CLOSE)


@pytest.mark.parametrize("host", [h for h in HOSTS if h.architecture != "gemma3"], ids=case_id)
@pytest.mark.parametrize(
    "kind", [Kind("topk", TopK(5)), Kind("clt", TopK(5), cross_layer=True)], ids=case_id
)
def test_constrained_edits_move_the_residual_stream_by_what_they_write(
    host: Host, kind: Kind
) -> None:
    model = host.build()
    transcoders = kind.build(model)
    with splice(model, transcoders, error="keep") as spliced:
        run = capture(spliced, tokens())
        assert not any(block.ln2_post for block in run.model.anatomy.blocks)
        layer = spliced.layers[-1]
        row = transcoders.W_dec[-1][0][3] if kind.cross_layer else transcoders[layer].W_dec[3]
        W_O = run.model.anatomy.blocks[0].attention.W_O[1]
        direction = torch.randn(D_MODEL)
        cases: list[tuple[Any, Tensor, Tensor]] = [
            (Feature(layer, 3), torch.tensor(0.7), 0.7 * row),
            (Head(0, 1), torch.ones(10), W_O.sum(0)),
            (Error(layer), direction, direction),
            (Mlp(0), direction, direction),
        ]
        for node, amount, written in cases:
            done = tlt.intervene(spliced, tokens(), {node: tlt.Add(amount)}, constrained=True)
            expected = run.model.anatomy.logits(run.resid_final + written)
            torch.testing.assert_close(done.logits, expected, **CLOSE)


@every_host
def test_constrained_edits_pass_through_the_post_norm(host: Host) -> None:
    model = host.build()
    transcoders = TOPK.build(model)
    with splice(model, transcoders, error="keep") as spliced:
        run = capture(spliced, tokens())
        block = run.model.anatomy.blocks[2]
        raw = run.values["mlp_raw", 2] + 0.7 * transcoders[2].W_dec[3]
        written = raw if block.ln2_post is None else block.ln2_post(raw)
        delta = written - run.values["mlp_out", 2]
        done = tlt.intervene(spliced, tokens(), {Feature(2, 3): tlt.Add(0.7)}, constrained=True)
    expected = run.model.anatomy.logits(run.resid_final + delta)
    torch.testing.assert_close(done.logits, expected, **CLOSE)


@every_host
@pytest.mark.parametrize("cached", [True, False])
def test_generation_counts_positions_from_the_start_of_the_sequence(
    host: Host, cached: bool
) -> None:
    model = host.build()
    prompt = tokens(2)
    direction = torch.randn(D_MODEL) * 3
    with splice(model, TOPK.build(model)) as spliced:
        plain = model.generate(prompt, use_past_kv_cache=cached, **SETTINGS)
        edits: dict[Node, Any] = {
            Mlp(1): tlt.Add(direction, at=slice(6, None)),
            Feature(2, 3): tlt.Set(4.0, at=slice(8, 9)),
            Head(0, 1): tlt.Patch(prompt[:1]),
        }
        with tlt.intervening(spliced, edits):
            steered = model.generate(prompt, use_past_kv_cache=cached, **SETTINGS)
        again = model.generate(prompt, use_past_kv_cache=cached, **SETTINGS)
        expected = prompt
        for _ in range(4):
            following = steered_by_hand(spliced, expected, prompt, direction)[:, -1].argmax(-1)
            expected = torch.cat([expected, following[:, None]], dim=1)
    assert torch.equal(steered, expected)
    assert torch.equal(again, plain)
    assert not torch.equal(steered, plain)


def steered_by_hand(spliced: Spliced, ids: Tensor, prompt: Tensor, direction: Tensor) -> Tensor:
    _, cache = spliced.model.run_with_cache(prompt[:1])

    def add(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        value[:, 6:] += direction
        return value

    def put(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        value[:, 8:9, 3] = 4.0
        return value

    def patch(value: Tensor, hook: Any) -> Tensor:
        heads = value.clone().view(*value.shape[:2], 2, -1)
        theirs = cache["blocks.0.attn.hook_z"].view(1, 7, 2, -1)
        heads[:, :7, 1] = theirs[:, :, 1]
        return heads.view(value.shape)

    hooks = [
        ("blocks.1.hook_mlp_out", add),
        ("blocks.2.mlp.hook_post", put),
        ("blocks.0.attn.hook_z", patch),
    ]
    with torch.no_grad():
        return spliced.model.run_with_hooks(ids, fwd_hooks=hooks, return_type="logits")


@every_host
def test_the_users_hooks_stay_and_take_part(host: Host) -> None:
    model = host.fresh()
    fired: list[int] = []
    model.add_hook("blocks.1.hook_mlp_out", lambda t, hook: fired.append(1) or t * 2)
    with splice(model, TOPK.build(model)) as spliced:
        before = [list(p._forward_hooks) for p in map(model.hook_dict.get, sorted(model.hook_dict))]
        done = tlt.intervene(spliced, tokens(), {Mlp(1): tlt.Add(1.0)})
        assert len(fired) == 2
        with torch.no_grad():
            torch.testing.assert_close(done.base, model(tokens(), return_type="logits"))
        with pytest.raises(KeyboardInterrupt), tlt.intervening(spliced, {Mlp(1): tlt.Add(1.0)}):
            raise KeyboardInterrupt
        after = [list(p._forward_hooks) for p in map(model.hook_dict.get, sorted(model.hook_dict))]
    assert before == after


@every_host
def test_a_context_reaches_the_users_own_runs_and_gradients(host: Host) -> None:
    model = host.build()
    amount = torch.zeros(D_MODEL, requires_grad=True)
    with (
        splice(model, TOPK.build(model)) as spliced,
        tlt.intervening(spliced, {Mlp(1, 3): tlt.Add(amount)}),
    ):
        last(model(tokens(), return_type="logits")).sum().backward()
    assert amount.grad is not None
    assert amount.grad.abs().max() > 0
