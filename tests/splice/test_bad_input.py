"""Bad input: where, got, expected, what to do, and an untouched model."""

import dataclasses
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

from tests.cases import FEATURES, HOSTS, Host, Kind, case_id, randomise, tokens
from tl_transcoders.errors import (
    ConfigError,
    ShapeError,
    SpliceError,
    TLTranscodersError,
    UnknownLayerError,
)
from tl_transcoders.evaluation import evaluate
from tl_transcoders.hosts import resolve_host
from tl_transcoders.splice import HookedTranscoder, Mode, splice, unsplice
from tl_transcoders.transcoders import (
    CrossLayerConfig,
    CrossLayerTranscoder,
    TopK,
    Transcoder,
    TranscoderConfig,
    TranscoderSet,
)

pytestmark = pytest.mark.cases
every_host = pytest.mark.parametrize("host", HOSTS, ids=case_id)
TOPK = Kind("topk", TopK(5))


def one(model: Any, **changes: Any) -> Transcoder:
    base = {"layer": 1, "d_in": 20, "d_out": 20, "n_features": FEATURES}
    folded = {"folded": resolve_host(model).folded}
    return randomise(Transcoder.init(TranscoderConfig(**{**base, **folded, **changes}), seed=0))


def with_nan(model: Any) -> Transcoder:
    transcoder = one(model)
    with torch.no_grad():
        transcoder.W_dec[3, 2] = float("nan")
    return transcoder


def with_a_bf16_decoder(model: Any) -> Transcoder:
    transcoder = one(model)
    transcoder.W_dec.data = transcoder.W_dec.data.bfloat16()
    return transcoder


REFUSED: list[tuple[str, Callable[[Any], Any], dict[str, Any], type[Exception], str]] = [
    ("layer out of range", lambda m: one(m, layer=3), {}, SpliceError, r"layer 3: got a model of 3 layers"),
    ("d_in of another model", lambda m: one(m, d_in=19), {}, ShapeError, r"got a transcoder with d_in=19; expected d_in=20"),
    ("d_out of another model", lambda m: one(m, d_out=19), {}, ShapeError, r"got a transcoder with d_out=19"),
    ("NaN", with_nan, {}, ConfigError, r"layer 1, W_dec: got NaN or infinite values"),
    ("two dtypes", with_a_bf16_decoder, {}, ConfigError, r"layer 1: got weights of torch.bfloat16 and torch.float32"),
    ("another device", lambda m: one(m).to("meta"), {}, SpliceError, r"got weights on meta; expected weights on cpu"),
    ("float mask", one, {"exclude": torch.zeros(3, 7)}, ConfigError, r"exclude: got a tensor of torch.float32"),
]  # fmt: skip


@every_host
@pytest.mark.parametrize(
    ("make", "options", "error", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_refused_with_the_model_untouched(
    host: Host,
    make: Callable[[Any], Any],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    model = host.build()
    base, names = model(tokens()).detach(), list(model.hook_dict)
    with pytest.raises(error, match=message):
        splice(model, make(model), **options)
    assert list(model.hook_dict) == names
    assert torch.equal(model(tokens()), base)
    splice(model, one(model)).remove()


def test_arguments_of_the_wrong_kind() -> None:
    """In a process without the shape checker, which would refuse them first."""
    script = """
        from tests.test_bad import HOSTS, one, splice
        from tl_transcoders.errors import TLTranscodersError
        model = HOSTS[0].build()
        for transcoders, options in [({1: one(model)}, {}), (one(model), {"error": "ignore"}), (one(model), {"exclude": "bos"})]:
            try:
                splice(model, transcoders, **options)
            except TLTranscodersError as error:
                print(type(error).__name__, error)
        """
    script = textwrap.dedent(script).replace("tests.test_bad", "tests.splice.test_bad_input")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    kinds = [line.split(";")[0] for line in run.stdout.splitlines()]
    assert kinds == [
        "SpliceError splice: got dict as transcoders",
        "ConfigError error: got 'ignore'",
        "ConfigError exclude: got 'bos'",
    ]


@every_host
def test_one_site_is_spliced_once(host: Host) -> None:
    model = host.build()
    transcoders = TOPK.build(model)
    with splice(model, transcoders):
        with pytest.raises(
            SpliceError, match=r"blocks\.1, mlp: got a place that is already spliced"
        ):
            splice(model, one(model))
        same_site = Kind("s", read="mlp_out", write="mlp_out", layers=(1,)).build(model)
        with pytest.raises(SpliceError, match=r"blocks\.1, mlp_out"):
            splice(model, same_site)
        assert model(tokens()) is not None
    splice(model, transcoders).remove()


@every_host
def test_different_sites_nest_and_leave_in_any_order(host: Host) -> None:
    model = host.build()
    base, names = model(tokens()).detach(), list(model.hook_dict)
    first = splice(model, TOPK.build(model).select([0, 2]))
    second = splice(model, one(model))
    third = splice(model, Kind("s", read="z", write="z").build(model))
    first.remove()
    third.remove()
    assert not torch.equal(model(tokens()), base)
    second.remove()
    second.remove()
    assert sorted(model.hook_dict) == sorted(names)
    assert torch.equal(model(tokens()), base)


@pytest.mark.parametrize("host", [h for h in HOSTS if h.architecture == "neox"], ids=case_id)
@pytest.mark.parametrize("kind", [Kind("r", read="resid_mid"), Kind("s", read="resid_mid", write="resid_mid")], ids=case_id)  # fmt: skip
def test_a_site_the_architecture_lacks(host: Host, kind: Kind) -> None:
    model = host.build()
    with pytest.raises(SpliceError, match=r"hook_resid_mid: got no such hook point on this model"):
        splice(model, kind.build(model))


def test_a_model_of_neither_kind() -> None:
    with pytest.raises(SpliceError, match=r"got torch\.nn\.modules\.linear\.Linear"):
        splice(
            torch.nn.Linear(2, 2),
            Transcoder.init(TranscoderConfig(layer=0, d_in=2, d_out=2, n_features=3), seed=0),
        )


def test_freezing_needs_a_base_run_of_the_same_shape() -> None:
    model = HOSTS[0].build()
    with splice(model, TOPK.build(model), error="freeze") as spliced:
        with pytest.raises(
            SpliceError, match=r"got no base run.*Call spliced\.freeze\(tokens\) first"
        ):
            model(tokens())
        spliced.freeze(tokens(1))
        model(tokens())
        with pytest.raises(ShapeError, match=r"expected the shape of the base run, \(1, 7\)"):
            model(tokens(1, 5))


@pytest.mark.parametrize(
    "use",
    [
        lambda s: s.__enter__(),
        lambda s: s.freeze(tokens()),
        lambda s: s.running(Mode.ORIGINAL).__enter__(),
        lambda s: s.keeping_error().__enter__(),
        lambda s: evaluate(s, tokens()),
    ],
    ids=["enter", "freeze", "running", "keeping_error", "evaluate"],
)
def test_a_removed_splice_is_of_no_more_use(use: Callable[[Any], Any]) -> None:
    model = HOSTS[0].build()
    with splice(model, TOPK.build(model), error="freeze") as spliced:
        assert repr(spliced) == "Spliced(TransformerBridge, layers=[0, 1, 2])"
    assert repr(spliced) == "Spliced(TransformerBridge, layers=[0, 1, 2], removed)"
    with pytest.raises(SpliceError, match=r"removed.*got a splice that is already removed"):
        use(spliced)


@every_host
def test_unsplice_removes_every_splice_whose_handle_is_lost(host: Host) -> None:
    model = host.build()
    base, names = model(tokens()).detach(), list(model.hook_dict)
    splice(model, TOPK.build(model).select([0, 2]), exclude="special")
    splice(model, Kind("s", read="resid_post", write="resid_post").build(model))
    with pytest.raises(
        SpliceError, match=r"tl_transcoders\.unsplice\(model\) if its handle is lost"
    ):
        splice(model, TOPK.build(model))
    unsplice(model)
    assert list(model.hook_dict) == names
    assert torch.equal(model(tokens()), base)
    unsplice(model)


def test_generating_with_a_frozen_error_says_what_works() -> None:
    model = HOSTS[0].build()
    with (
        splice(model, TOPK.build(model), error="freeze", base=tokens(1)),
        pytest.raises(ShapeError, match=r"To generate.*error='keep' or 'drop'"),
    ):
        model.generate(tokens(1), max_new_tokens=3, verbose=False, stop_at_eos=False)


def test_no_layers() -> None:
    with pytest.raises(ConfigError, match="got no layers; expected at least one"):
        TranscoderSet({})


def test_a_set_is_a_mapping_also_where_it_holds_nothing() -> None:
    transcoders = TOPK.build(HOSTS[0].build())
    assert 9 not in transcoders
    assert transcoders.get(9) is None
    with pytest.raises(UnknownLayerError, match=r"^transcoder set: got layer 9; expected one of"):
        transcoders[9]


def test_a_key_that_is_not_the_layer() -> None:
    transcoder = Transcoder.init(TranscoderConfig(layer=2, d_in=5, d_out=5, n_features=11), seed=0)
    with pytest.raises(ConfigError, match="key 1: got a transcoder of layer 2"):
        TranscoderSet({1: transcoder})


def test_a_layer_the_set_does_not_hold() -> None:
    model = HOSTS[0].build()
    with pytest.raises(ConfigError, match=r"got layers \[5\]"):
        TOPK.build(model).select([0, 5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": TopK(12)}, r"got k=12; expected at most the width, 11 features"),
        ({"n_features": 0}, r"got n_features=0"),
        ({"layer": -1}, r"got layer -1"),
        ({"read": "mlp_input"}, "mlp_input"),
        ({"read": "resid_pre"}, r"got read='resid_pre', write='mlp_out_raw'"),
        ({"read": "mlp_out"}, r"got read='mlp_out', write='mlp_out_raw'"),
        ({"read": "resid_post"}, r"For an SAE also set write='resid_post'"),
        ({"write": "resid_post"}, r"For an SAE also set read='resid_post'"),
        ({"read": "z", "write": "z", "skip": True}, r"layer 0: got skip=True for an SAE"),
    ],
)
def test_configs_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    base = TranscoderConfig(layer=0, d_in=5, d_out=7, n_features=11)
    # the shape checker refuses an unknown site name before the config does
    with pytest.raises((ConfigError, TypeCheckError), match=message):
        dataclasses.replace(base, **changes)


def test_weights_the_config_does_not_declare() -> None:
    weights = dict.fromkeys(("b_enc",), torch.zeros(11)) | {
        "W_enc": torch.zeros(5, 11),
        "W_dec": torch.zeros(11, 7),
        "b_dec": torch.zeros(7),
    }
    cfg = TranscoderConfig(layer=4, d_in=5, d_out=7, n_features=11)
    with pytest.raises(ConfigError, match=r"layer 4, W_skip: got a tensor; expected none"):
        Transcoder(cfg, **weights, W_skip=torch.zeros(5, 7))
    with pytest.raises(ConfigError, match=r"layer 4, W_skip: got none; expected a tensor"):
        Transcoder(dataclasses.replace(cfg, skip=True), **weights)


def test_decoding_a_skip_transcoder_needs_its_input() -> None:
    cfg = TranscoderConfig(layer=0, d_in=5, d_out=7, n_features=11, skip=True)
    transcoder = Transcoder.init(cfg, seed=0)
    with pytest.raises(ConfigError, match=r"has a skip connection.*decode\(features, x\)"):
        transcoder.decode(torch.zeros(3, 11))


def test_a_cross_layer_transcoder_is_not_one_layer() -> None:
    clt = CrossLayerTranscoder.init(
        CrossLayerConfig(layers=(0, 1), d_in=5, d_out=5, n_features=11), seed=0
    )
    with pytest.raises(ConfigError, match="Splice it as a whole"):
        HookedTranscoder(clt)


def test_errors_survive_pickling() -> None:
    error = ShapeError("here", got="this", expected="that", do="Mend it.")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, TLTranscodersError)
    assert str(again) == str(error) == "here: got this; expected that. Mend it."
