"""Whole steps on a toy MLP."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.training.toy import D_IN, D_OUT, FEATURES, ROWS, batch, trainer
from tl_transcoders.errors import ConfigError
from tl_transcoders.training import Trainer, losses
from tl_transcoders.training.adam import Adam
from tl_transcoders.training.finish import finish
from tl_transcoders.training.start import Units
from tl_transcoders.transcoders import Activation, BatchTopK, JumpReLU, ReLU, TopK, Transcoder
from tl_transcoders.transcoders.kernels import TopKEncode, largest

STEPS = 300
KINDS = {
    "relu": (ReLU(), {}, 0.06),
    "jumprelu": (JumpReLU(), {}, 0.08),
    "topk": (TopK(7), {}, 0.1),
    "batchtopk": (BatchTopK(7), {}, 0.08),
    "topk-skip": (TopK(7), {"skip": True}, 0.08),
}
"""Activation, options, and a bound on FVU; the best linear map leaves 0.246."""


def held_out_fvu(transcoder: Transcoder) -> float:
    x, y = batch(10**6, 2000)
    with torch.no_grad():
        return float(losses.fvu(y, transcoder(x), losses.total_variance(y)))


@pytest.mark.parametrize(("activation", "options", "bound"), KINDS.values(), ids=KINDS)
def test_training_explains_a_small_mlp(
    activation: Activation, options: dict[str, object], bound: float
) -> None:
    fitted = trainer(activation, lr=2e-2, **options)
    reports = [fitted.step(*batch(i), lr_scale=1 - i / STEPS) for i in range(STEPS)]
    assert reports[0].fvu > 0.8
    assert reports[-1].fvu < bound
    assert held_out_fvu(fitted.transcoder) < 1.2 * bound


def test_more_pressure_means_fewer_features() -> None:
    def final_l0(activation: Activation, **options: float) -> float:
        fitted = trainer(activation, lr=2e-2, **options)
        return [fitted.step(*batch(i)).l0 for i in range(100)][-1]

    assert final_l0(ReLU(), l1=0.1) < 0.6 * final_l0(ReLU(), l1=0.0)
    assert final_l0(JumpReLU(), sparsity=0.05) < 0.6 * final_l0(JumpReLU(), sparsity=0.0)


@pytest.mark.parametrize("scale", [2**-10, 1.0, 2**10])
def test_the_scale_of_the_activations_does_not_matter(scale: float) -> None:
    plain, scaled = trainer(TopK(7)), trainer(TopK(7))
    for i in range(20):
        x, y = batch(i)
        a, b = plain.step(x, y), scaled.step(scale * x, y / scale)
        assert_close(a.fvu, b.fvu, rtol=2e-2, atol=0)


def test_without_data_units_the_first_step_keeps_the_encoder_and_moves_by_lr() -> None:
    fitted = trainer(TopK(7), data_units=False, lr=1e-3)
    before = fitted.transcoder.W_enc.detach().clone()
    x, y = batch(0)
    fitted.step(x, y)
    t = fitted.transcoder
    assert (t.W_enc - before).abs().max() < 1.01e-3
    moved = t.W_dec.abs().amax(1)
    assert_close(moved[moved > 0], torch.full_like(moved[moved > 0], 1e-3), rtol=1e-2, atol=0)
    assert_close(t.b_dec, y.mean(0), rtol=0, atol=1.01e-3)
    assert_close(t.b_enc, -x.mean(0) @ before, rtol=0, atol=1.01e-3)


def test_pre_activations_start_centred_with_spread_1() -> None:
    fitted = trainer(TopK(7), lr=1e-9)
    x, y = batch(0)
    fitted.step(x, y)
    pre = fitted.transcoder.pre_activations(x)
    assert_close(pre.mean(0), torch.zeros(FEATURES), rtol=0, atol=1e-3)
    assert_close(pre.square().mean().sqrt(), torch.tensor(1.0), rtol=0.1, atol=0)
    units = Units.of(x, y, layer=0)
    assert_close(units.x, 0.1, rtol=0.05, atol=0)


def dense_gradients(t: Transcoder, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The step's gradients by the definition, through dense tensors only."""
    pre = x @ t.W_enc + t.b_enc
    kept = torch.zeros_like(pre).scatter(1, pre.topk(7, dim=1).indices, 1.0)
    y_hat = (pre.relu() * kept) @ t.W_dec + t.b_dec
    if t.W_skip is not None:
        y_hat = y_hat + x @ t.W_skip
    loss = (y - y_hat).square().sum() / (y - y.mean(0)).square().sum()
    names = [name for name, _ in t.named_parameters()]
    return dict(zip(names, torch.autograd.grad(loss, list(t.parameters())), strict=True))


def gradients_of_a_step(fitted: Trainer, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """What Adam is handed, from its first moments after one more step with β₁ = 0."""
    fitted.step(x, y, lr_scale=0.0)
    state = fitted.state()
    names = [name for name, _ in fitted.transcoder.named_parameters()]
    found = {name: state[f"adam.{name}/exp_avg"] for name in names}
    return {**found, "W_enc": found["W_enc"].T}


@pytest.mark.parametrize("skip", [False, True])
def test_the_sparse_step_has_the_dense_steps_gradient(skip: bool) -> None:
    fitted = trainer(TopK(7), skip=skip, betas=(0.0, 0.999))
    for i in range(5):
        fitted.step(*batch(i))
    x, y = batch(5)
    expected = dense_gradients(fitted.transcoder, x, y)
    found = gradients_of_a_step(fitted, x, y)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    with torch.no_grad():
        fitted.transcoder.W_dec[3] *= 1.5
    assert not torch.allclose(dense_gradients(fitted.transcoder, x, y)["W_enc"], found["W_enc"])


def test_a_step_keeps_nothing_dense_beyond_the_pre_activations() -> None:
    """No tensor of [row, feature] entries is saved for the backward pass of TopK."""
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    fitted = trainer(TopK(2), skip=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fitted.step(*batch(0))
    assert saved
    assert max(saved) < ROWS * FEATURES / 2


@pytest.mark.parametrize(("features", "k"), [(9001, 4), (8192, 4), (8192, 513), (64, 64), (7, 1)])
def test_topk_in_parts_and_groups_is_topk(features: int, k: int) -> None:
    rows = 700
    x, W_enc, b_enc = torch.randn(rows, 5), torch.randn(features, 5).T, torch.randn(features)
    values, indices, _ = TopKEncode.apply(x, W_enc, b_enc, k, False)
    pre = x @ W_enc + b_enc
    expected = pre.topk(k, dim=-1)
    assert_close(values.sort(descending=True).values, expected.values.relu())
    assert_close(pre.gather(1, indices).relu(), values)
    assert len(indices[0].unique()) == k


def test_the_largest_of_equal_values_are_different_entries() -> None:
    values = torch.randn(7, 1024).round()
    found, places = largest(values, 5)
    assert torch.equal(found.sort(descending=True).values, values.topk(5).values)
    assert torch.equal(values.gather(1, places), found)
    assert all(len(row.unique()) == 5 for row in places)


def test_auxk_revives_dead_features() -> None:
    killed = slice(5, 12)

    def fired_again(auxk: float) -> int:
        fitted = trainer(TopK(3), auxk=auxk, dead_after=4 * ROWS, lr=1e-2)
        fitted.step(*batch(0))
        with torch.no_grad():
            fitted.transcoder.b_enc[killed] -= 2.5
        dead = [fitted.step(*batch(i)).dead for i in range(1, 120)]
        assert round(dead[5] * FEATURES) >= 7
        return int((fitted.transcoder.encode(batch(999)[0])[:, killed] > 0).any(0).sum())

    assert fired_again(0.0) == 0
    assert fired_again(1.0) >= 4


def test_dead_features_are_counted_in_tokens() -> None:
    fitted = trainer(TopK(3), auxk=0.0, dead_after=3 * ROWS)
    fitted.step(*batch(0))
    with torch.no_grad():
        fitted.transcoder.b_enc[[5, 8]] = -1e3
    dead = [fitted.step(*batch(i)).dead for i in range(1, 5)]
    assert [round(share * FEATURES) for share in dead] == [0, 0, 2, 2]


def test_batch_topk_threshold_is_the_running_mean_of_the_boundary() -> None:
    fitted = trainer(BatchTopK(7), lr=1e-9)
    boundaries = []
    for i in range(3):
        x, y = batch(i)
        fitted.step(x, y)
        pre = fitted.transcoder.pre_activations(x).detach()
        boundaries.append(float(pre.flatten().topk(7 * ROWS).values[-1]))
    expected = boundaries[0]
    for boundary in boundaries[1:]:
        expected += 0.01 * (boundary - expected)
    assert_close(fitted.transcoder.threshold, torch.full((FEATURES,), expected), rtol=1e-4, atol=0)


def test_jump_relu_thresholds_stay_at_0_or_above() -> None:
    fitted = trainer(JumpReLU(), lr=0.5)
    for i in range(10):
        fitted.step(*batch(i))
        assert (fitted.transcoder.threshold >= 0).all()


@pytest.mark.parametrize("activation", [ReLU(), JumpReLU(), BatchTopK(7)])
def test_unit_norm_decoder_is_exact(activation: Activation) -> None:
    fitted = trainer(activation, unit_norm_decoder=True)
    for i in range(30):
        fitted.step(*batch(i))
    t, x = fitted.transcoder, batch(31)[0]
    with torch.no_grad():
        t.W_dec[4] = 0.0
        before, row = t(x), t.W_dec[2].clone()
        finish(t, unit_norm_decoder=True)
        assert_close(t(x), before, rtol=1e-4, atol=1e-3)
    norms = t.W_dec.norm(dim=1)
    assert norms[4] == 0
    assert_close(norms[norms > 0], torch.ones(FEATURES - 1))
    assert_close(t.W_dec[2], row / row.norm())
    assert not any(p.requires_grad or p.grad is not None for p in t.parameters())


def test_adam_is_torchs_adam_in_memory_order() -> None:
    start, other = torch.randn(FEATURES, D_IN), torch.randn(3, FEATURES, D_OUT)
    mine = {"W": torch.nn.Parameter(start.clone().T), "V": torch.nn.Parameter(other.clone())}
    theirs = [torch.nn.Parameter(start.clone().T), torch.nn.Parameter(other.clone())]
    adam = Adam(mine, lr=0.01, betas=(0.8, 0.9))
    reference = torch.optim.Adam(theirs, lr=0.01, betas=(0.8, 0.9))
    for _ in range(5):
        for a, b in zip(mine.values(), theirs, strict=True):
            b.grad = torch.randn_like(b)
            a.grad = b.grad.clone()
        adam.step(lr_scale=1.0)
        reference.step()
    assert mine["W"].stride() == (1, D_IN)
    for a, b in zip(mine.values(), theirs, strict=True):
        assert a.grad is None
        assert_close(a, b)


def test_lr_scale_and_units_multiply_the_step() -> None:
    def moved(unit: float, lr_scale: float) -> Tensor:
        parameter = torch.nn.Parameter(torch.zeros(D_IN))
        adam = Adam({"b": parameter}, lr=0.01, betas=(0.9, 0.999))
        adam.units["b"] = unit
        parameter.grad = torch.arange(1.0, D_IN + 1)
        adam.step(lr_scale=lr_scale)
        return parameter.detach()

    assert_close(moved(3.0, 0.5), 1.5 * moved(1.0, 1.0))


@pytest.mark.parametrize("make", [lambda: trainer(TopK(7)), lambda: trainer(JumpReLU())])
def test_state_is_everything_the_next_step_depends_on(make: Callable[[], Trainer]) -> None:
    first, second = make(), make()
    for i in range(7):
        first.step(*batch(i))
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    for i in range(7, 11):
        assert first.step(*batch(i)) == second.step(*batch(i))
    for a, b in zip(first.transcoder.parameters(), second.transcoder.parameters(), strict=True):
        assert torch.equal(a, b)


def test_same_seed_same_bytes_other_seed_other_bytes() -> None:
    def weights(seed: int) -> Tensor:
        fitted = Trainer.new(trainer(TopK(7)).transcoder.cfg, trainer(TopK(7)).config, seed=seed)
        for i in range(5):
            fitted.step(*batch(i))
        return fitted.transcoder.W_enc.detach()

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_k_above_the_width() -> None:
    with pytest.raises(ConfigError, match=r"k=44; expected at most the width, 43 features"):
        trainer(TopK(44))
