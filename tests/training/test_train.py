"""`train` on a tiny model."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.cases import BOS, D_MODEL, FEATURES, HOSTS, Host, Kind
from tests.training.models import CONTEXT, config, model, tokens
from tl_transcoders.errors import ConfigError, SpliceError, TLTranscodersError
from tl_transcoders.hosts import resolve_host
from tl_transcoders.splice import splice
from tl_transcoders.training import StepReport, losses, train, train_cross_layer
from tl_transcoders.training.stream import Position, batches, count_tokens
from tl_transcoders.transcoders import BatchTopK, JumpReLU, ReLU, TopK, TranscoderSet

LEARNABLE = 60 * (CONTEXT - 1)


def weights(transcoders: TranscoderSet, layer: int) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in transcoders[layer].named_parameters()}


def assert_same_bytes(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.cases
@pytest.mark.parametrize(
    "host", [host for host in HOSTS if host.architecture == "llama-gqa"], ids=str
)
def test_it_learns_what_the_mlp_of_any_host_does(host: Host) -> None:
    subject = host.build()
    reports: list[StepReport] = []
    found = train(
        subject,
        layers=[1],
        config=config(skip=True),
        tokens=tokens(200),
        on_step=lambda _, report: reports.append(report),
    )
    assert reports[-1].fvu < 0.7 * reports[0].fvu
    resolved = resolve_host(subject)
    assert found[1].cfg.folded is resolved.folded
    assert found.origin.model_name == resolved.model_name
    fresh = torch.randint(50, (9, CONTEXT))
    fresh[:, 0] = BOS
    with resolved.recording([(1, "mlp_in"), (1, "mlp_out_raw")]) as store:
        resolved.run(fresh)
    x, y = (store[1, site][:, 1:].flatten(0, 1) for site in ("mlp_in", "mlp_out_raw"))
    assert losses.fvu(y, found[1](x), losses.total_variance(y)) < 0.75


@pytest.mark.parametrize("activation", [ReLU(), JumpReLU(), TopK(5), BatchTopK(5)], ids=repr)
def test_a_seed_gives_the_same_bytes_twice(activation: Any) -> None:
    given = config(activation=activation, n_tokens=300)
    first = train(model(), layers=[1], config=given, tokens=tokens())
    second = train(model(), layers=[1], config=given, tokens=tokens())
    assert_same_bytes(weights(first, 1), weights(second, 1))
    other = train(
        model(),
        layers=[1],
        config=config(activation=activation, n_tokens=300, seed=1),
        tokens=tokens(),
    )
    assert not torch.equal(first[1].W_enc, other[1].W_enc)


def test_layers_at_once_are_layers_one_by_one() -> None:
    together = train(model(), layers=[2, 0], config=config(n_tokens=400), tokens=tokens())
    assert together.layers == (0, 2)
    for layer in (0, 2):
        alone = train(model(), layers=[layer], config=config(n_tokens=400), tokens=tokens())
        assert_same_bytes(weights(together, layer), weights(alone, layer))


def test_the_result_is_frozen_and_the_model_untouched() -> None:
    subject = model()
    before = {name: p.detach().clone() for name, p in subject.named_parameters()}
    hooks = {name: len(m._forward_hooks) for name, m in subject.named_modules()}
    found = train(subject, layers=[0], config=config(), tokens=tokens())
    assert not any(p.requires_grad or p.grad is not None for p in found[0].parameters())
    assert {name: len(m._forward_hooks) for name, m in subject.named_modules()} == hooks
    for name, parameter in subject.named_parameters():
        assert torch.equal(parameter, before[name]), name
        assert parameter.grad is None


def test_an_sae_reads_and_writes_one_site() -> None:
    given = config(read="resid_post", write="resid_post")
    reports: list[StepReport] = []
    found = train(
        model(), layers=[1], config=given, tokens=tokens(), on_step=lambda _, r: reports.append(r)
    )
    assert found[1].cfg.is_sae
    assert reports[-1].fvu < reports[0].fvu


def stream(given: Any, text: Any, layers: tuple[int, ...] = (1,)) -> list[Any]:
    return list(batches(resolve_host(model()), layers, given, text, start=Position()))


def test_the_stream_holds_every_learnable_token_once() -> None:
    found = stream(config(), tokens())
    assert sum(batch.n_tokens for batch in found) == LEARNABLE == count_tokens(tokens(), config())
    assert {batch.n_tokens for batch in found} <= set(range(56, 73))
    host = resolve_host(model())
    with host.recording([(1, "mlp_in")]) as store:
        host.run(tokens(), stop_at_layer=2)
    expected = store[1, "mlp_in"][tokens() != BOS]
    seen = torch.cat([batch.x[1] for batch in found])
    assert seen.shape == (LEARNABLE, D_MODEL)
    assert_close(seen.sort(0).values, expected.sort(0).values)
    assert not torch.allclose(seen, expected)


def test_inputs_and_outputs_belong_to_the_same_tokens() -> None:
    mlp = resolve_host(model()).mlp(1)
    for batch in stream(config(), tokens()):
        assert_close(mlp(batch.x[1][None])[0], batch.y[1], rtol=1e-4, atol=1e-4)


def test_rows_are_cut_into_contexts() -> None:
    text = torch.randint(50, (4, 37))
    given = config(context=12)
    assert count_tokens(text, given) == 4 * 36
    seen = torch.cat([batch.x[0] for batch in stream(given, text, (0,))])
    pieces = text[:, :36].reshape(-1, 12)
    whole = torch.cat([batch.x[0] for batch in stream(config(), pieces, (0,))])
    assert torch.equal(seen, whole)


def test_an_iterable_of_tensors_is_the_same_text() -> None:
    given = config(n_tokens=LEARNABLE)
    whole = train(model(), layers=[1], config=given, tokens=tokens())
    parts = train(model(), layers=[1], config=given, tokens=iter(tokens().split(4)))
    assert_same_bytes(weights(whole, 1), weights(parts, 1))


def test_training_ends_at_n_tokens_or_with_the_stream() -> None:
    def last(n_tokens: int, text: Any) -> int:
        seen: list[int] = []
        train(
            model(),
            layers=[0],
            config=config(n_tokens=n_tokens),
            tokens=text,
            on_step=lambda n, _: seen.append(n),
        )
        return seen[-1]

    assert 300 <= last(300, tokens()) < 300 + 73
    with pytest.warns(UserWarning, match=f"{LEARNABLE} of TrainConfig.n_tokens=10000"):
        assert last(10_000, iter([tokens()])) == LEARNABLE


@pytest.mark.parametrize(
    ("rows", "n_batches"), [(1, 1), (2, 1), (20, 5), (22, 5), (23, 6), (24, 6)]
)
def test_less_than_half_a_batch_at_the_end_is_left_out(rows: int, n_batches: int) -> None:
    assert len(stream(config(), tokens(rows))) == n_batches


def no_tokens() -> Iterator[Tensor]:
    yield tokens().float()


BAD = {
    "no layers": ({"layers": []}, "layers: got []; expected at least one layer"),
    "twice": ({"layers": [1, 1]}, "expected at least one layer, none twice"),
    "beyond": ({"layers": [3]}, "got layer 3 for a model of 3 layers; expected layers from 0 to 2"),
    "too few tokens": (
        {"config": config(n_tokens=901)},
        "TrainConfig.n_tokens: got 901; expected between 1 and the 900 tokens there are",
    ),
    "only excluded": ({"config": config(exclude=tuple(range(53)))}, "the 0 tokens there are"),
    "endless": ({"tokens": iter([tokens()])}, "got None with an iterable of tokens"),
    "used up": (
        {"tokens": iter([]), "config": config(n_tokens=9)},
        "tokens: got an iterable without a token to learn from; expected 9 of them",
    ),
    "all excluded": (
        {"tokens": iter([tokens()]), "config": config(n_tokens=9, exclude=tuple(range(53)))},
        "got an iterable without a token to learn from",
    ),
    "no folder": (
        {"config": {"checkpoint": ""}},
        "TrainConfig.checkpoint: got ''; expected a folder",
    ),
    "floats": ({"tokens": tokens().float()}, "got torch.float32 of shape (60, 16)"),
    "floats in an iterable": (
        {"tokens": no_tokens(), "config": config(n_tokens=9)},
        "expected token ids of shape [batch pos]",
    ),
    "one row": ({"tokens": tokens()[0]}, "got torch.int64 of shape (16,)"),
    "no rows": ({"tokens": tokens()[:0]}, "got torch.int64 of shape (0, 16)"),
    "context": ({"config": config(context=17)}, "got 17 for rows of 16 tokens"),
    "constant": (
        {"tokens": torch.zeros(8, 1, dtype=torch.long), "config": config(exclude=())},
        "first batch of layer 1: got inputs with spread 0.0",
    ),
    "not a model": ({"model": torch.nn.Linear(2, 3)}, "expected a HookedTransformer"),
}


def made(given: Any) -> Any:
    return config(**given) if isinstance(given, dict) else given


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    given = {"model": model(), "layers": [1], "config": config(), "tokens": tokens(), **change}
    with pytest.raises(TLTranscodersError) as raised:
        train(given.pop("model"), **{**given, "config": made(given["config"])})
    assert message in str(raised.value)


def test_gradients_are_taken_where_the_caller_takes_none() -> None:
    expected = train(model(), layers=[1], config=config(n_tokens=300), tokens=tokens())
    with torch.no_grad():
        found = train(model(), layers=[1], config=config(n_tokens=300), tokens=tokens())
    assert_same_bytes(weights(found, 1), weights(expected, 1))
    with torch.inference_mode(), pytest.raises(ConfigError, match=r"inside torch\.inference_mode"):
        train(model(), layers=[1], config=config(n_tokens=300), tokens=tokens())


@pytest.mark.cases
@pytest.mark.parametrize("host", [host for host in HOSTS if host.architecture == "gpt2"], ids=str)
def test_dropout_does_not_reach_what_is_learnt(host: Host) -> None:
    subject = host.fresh()
    given = config(n_tokens=300)
    expected = train(subject, layers=[1], config=given, tokens=tokens())
    subject.train()
    host_modules = list(resolve_host(subject).modules())
    for module in host_modules:
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    modes = [module.training for module in host_modules]
    assert any(modes)
    found = train(subject, layers=[1], config=given, tokens=tokens())
    assert_same_bytes(weights(found, 1), weights(expected, 1))
    assert [module.training for module in host_modules] == modes


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(ConfigError, match=r"training, step \d+: got FVU (nan|inf)"):
        train(model(), layers=[1], config=config(lr=1e38, warmup=0.0), tokens=tokens())


@pytest.mark.parametrize(
    ("spliced", "options", "place"),
    [
        ({}, {}, "mlp_in"),
        ({}, {"read": "ln2_normalized"}, "mlp_out_raw"),
        ({}, {"read": "mlp_out", "write": "mlp_out"}, "mlp_out"),
        ({"read": "resid_mid", "write": "resid_mid"}, {"read": "resid_mid"}, "resid_mid"),
    ],
)
def test_a_spliced_transcoder_is_not_learnt(
    spliced: dict[str, Any], options: dict[str, Any], place: str
) -> None:
    inner = Kind("t", TopK(5), layers=(1,), **spliced).build(model())
    given = config(n_tokens=64, **options)
    with splice(model(), inner):
        with pytest.raises(SpliceError, match=f"layer 1, {place}: got a splice that stands there"):
            train(model(), layers=[0, 1], config=given, tokens=tokens())
        assert train(model(), layers=[2], config=given, tokens=tokens()).layers == (2,)
        if given.read != given.write:
            with pytest.raises(SpliceError, match="layer 1"):
                train_cross_layer(model(), layers=[1, 2], config=given, tokens=tokens())


def test_dead_features_are_helped_in_a_short_run() -> None:
    short = config(n_tokens=256, exclude=())
    plain = train(model(), layers=[1], config=replace(short, auxk=0.0), tokens=tokens())
    helped = train(model(), layers=[1], config=short, tokens=tokens())
    asked = train(model(), layers=[1], config=replace(short, dead_after=64), tokens=tokens())
    assert not torch.equal(plain[1].W_dec, helped[1].W_dec)
    assert torch.equal(helped[1].W_dec, asked[1].W_dec)
    with pytest.raises(ConfigError, match=r"dead_after: got 960 for a run of 960 tokens"):
        train(model(), layers=[1], config=config(exclude=(), dead_after=960), tokens=tokens())


def test_a_model_in_a_folder_is_recorded_without_its_path(tmp_path: Path) -> None:
    subject, given = HOSTS[0].fresh(), config(n_tokens=64)
    subject.cfg.model_name = str(tmp_path / "my-model")
    found = train(subject, layers=[1], config=given, tokens=tokens())
    assert found.origin.model_name == "my-model"
    together = train_cross_layer(subject, config=given, tokens=tokens())
    assert together.origin.model_name == "my-model"


def test_features_are_as_many_as_asked() -> None:
    found = train(model(processed=True), layers=[1], config=config(n_tokens=64), tokens=tokens())
    assert found[1].cfg.n_features == FEATURES
    assert found[1].cfg.folded
