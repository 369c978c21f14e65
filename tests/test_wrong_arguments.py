"""What a newcomer gets wrong, in a process without the shape checker, which would refuse most of it first."""

import json
import subprocess
import sys
from functools import cache

import pytest

PREAMBLE = """
import copy, json, sys, torch
import tl_transcoders as tlt
from tl_transcoders import hub
from tl_transcoders.errors import TLTranscodersError
from tests.cases import HOSTS, Kind, tokens
from tests.training.models import config

model = HOSTS[0].build()
transcoders = Kind("topk", tlt.TopK(5)).build(model)
ids = tokens()
cfg = config(exclude=())
splice, train = tlt.splice, tlt.train

def spliced(act, **options):
    with splice(model, transcoders, **options) as s:
        return act(s)

def with_nan():
    damaged = copy.deepcopy(transcoders[1])
    damaged.W_dec.data[5, 3] = torch.nan
    return damaged

def message(case):
    try:
        eval(case)
    except TLTranscodersError as error:
        return f"{type(error).__name__} {error}"
    except Exception as error:
        return f"not ours: {error!r}"
    return "no error"

print(json.dumps({case: message(case) for case in json.loads(sys.argv[1])}))
"""

USE_TO_TOKENS = "Of text, make them with model.to_tokens(text)."
CASES = {
    # tokens
    "spliced(lambda s: tlt.evaluate(s, 'text'))": "ConfigError evaluate: got the text 'text'; expected token ids of shape [batch pos], from 0 to 52. "
    + USE_TO_TOKENS,
    "spliced(lambda s: tlt.evaluate(s, ids.tolist()))": "evaluate: got list; expected token ids",
    "spliced(lambda s: tlt.evaluate(s, ids[0]))": "evaluate: got torch.int64 of shape (7,)",
    "spliced(lambda s: tlt.evaluate(s, ids + 50))": "evaluate: got the id 101; expected token ids of shape [batch pos], from 0 to 52",
    "spliced(lambda s: tlt.evaluate(s, -ids - 1))": "evaluate: got the id -52",
    "spliced(lambda s: tlt.evaluate(s, ids, mask=ids[:, 1:] > 0))": "ShapeError evaluate, mask: got torch.bool of shape (3, 6); expected torch.bool of shape (3, 7)",
    "spliced(lambda s: tlt.evaluate(s, ids, batch_size=0.5))": "ConfigError evaluate, batch_size: got 0.5",
    "spliced(lambda s: tlt.evaluate(model, ids))": "evaluate: got TransformerBridge; expected what tl_transcoders.splice returns",
    "spliced(lambda s: s.freeze('text'), error='freeze')": "freeze: got the text 'text'",
    "splice(model, transcoders, error='freeze', base=ids.float())": "base: got torch.float32 of shape (3, 7)",
    "train(model, layers=[0], config=cfg, tokens='text')": "tokens: got the text 'text'",
    "train(model, layers=[0], config=cfg, tokens=[1, 2])": "tokens: got int",
    "train(model, layers=[0], config=cfg, tokens=['a text'])": "tokens: got the text 'a text'",
    "train(model, layers=[0], config=cfg, tokens=3)": "tokens: got int",
    "train(model, layers=[0], config=cfg, tokens=ids + 50)": "tokens: got the id 101",
    "train(model, layers=[0], config=config(n_tokens=9), tokens=iter([ids + 50]))": "tokens: got the id 101",
    # layers
    "train(model, layers=2, config=cfg, tokens=ids)": "ConfigError layers: got 2; expected layer numbers, such as [2] or range(4)",
    "train(model, layers=[1.0], config=cfg, tokens=ids)": "ConfigError layers: got [1.0]",
    "train(model, layers='12', config=cfg, tokens=ids)": "ConfigError layers: got '12'",
    "tlt.load('.', layers=2)": "ConfigError layers: got 2",
    "transcoders.select(1)": "ConfigError layers: got 1",
    "transcoders[9]": "UnknownLayerError transcoder set: got layer 9; expected one of [0, 1, 2]",
    "spliced(lambda s: s.running(tlt.evaluate, (9,)).__enter__())": "UnknownLayerError Spliced(TransformerBridge, layers=[0, 1, 2]): got layer 9",
    # exclude
    "splice(model, transcoders, exclude=0)": "ConfigError exclude: got 0; expected 'special', a list of token ids (not of positions)",
    "splice(model, transcoders, exclude=[True, False])": "ConfigError exclude: got [True, False]",
    "splice(model, transcoders, exclude=[0, True])": "For single positions give a mask tensor, torch.tensor([[True, False, ...]]).",
    "splice(model, transcoders, exclude=[[True]])": "ConfigError exclude: got [[True]]",
    # error
    "splice(model, transcoders, base=ids)": "ConfigError base run: got one for error='drop'; expected one for error='freeze'",
    "spliced(lambda s: s.freeze(ids))": "ConfigError base run: got one for error='drop'",
    "spliced(lambda s: s.running('zero').__enter__())": "ConfigError running: got 'zero'; expected one of Mode.TRANSCODER",
    # configs
    "config(n_features=64.0)": "ConfigError TrainConfig: got n_features=64.0; expected an integer n_features",
    "config(n_features=True)": "ConfigError TrainConfig: got n_features=True",
    "config(activation='topk')": "ConfigError TrainConfig, activation: got 'topk'; expected ReLU(), JumpReLU(), TopK(k) or BatchTopK(k)",
    "config(activation=tlt.TopK)": "got <class 'tl_transcoders.transcoders.activations.TopK'>; expected ReLU()",
    "tlt.TranscoderConfig(layer=1, d_in=2, d_out=2, n_features=3, activation='relu')": "ConfigError transcoder of layer 1, activation: got 'relu'",
    "tlt.CrossLayerConfig(layers=(0, 1), d_in=2, d_out=2, n_features=3, activation='relu')": "ConfigError cross-layer transcoder, activation: got 'relu'",
    "config(exclude='special')": "ConfigError TrainConfig.exclude: got 'special'; expected a tuple of token ids",
    "config(exclude=(True,))": "ConfigError TrainConfig.exclude: got (True,)",
    "train(model, layers=[0], config={'n_features': 64}, tokens=ids)": "ConfigError config: got dict; expected a TrainConfig",
    "tlt.train_cross_layer(model, config={}, tokens=ids)": "ConfigError config: got dict; expected a TrainConfig",
    # files
    "tlt.save({1: transcoders[1]}, 'nowhere')": "ConfigError transcoders: got dict; expected a Transcoder, TranscoderSet or CrossLayerTranscoder",
    # objects of peers
    "hub.from_sae_lens(3)": "ConfigError object of a peer: got int; expected a module with a cfg and a state_dict",
    "hub.from_sae_lens(torch.nn.Linear(2, 2))": "ConfigError object of a peer: got Linear",
    "hub.from_sparsify(transcoders[1], 'layers.1.mlp')": "ConfigError object of a peer: got Transcoder",
    "hub.to_sae_lens(transcoders)": "ConfigError to_sae_lens: got TranscoderSet; expected a single Transcoder",
    # what is left of wrong arguments
    "tlt.TranscoderConfig(layer=1, d_in=2, d_out=2, n_features=3, skip='no')": "ConfigError transcoder of layer 1: got skip='no'; expected True or False",
    "tlt.TranscoderConfig(layer=1, d_in=2, d_out=2, n_features=3, folded=None)": "ConfigError transcoder of layer 1: got folded=None",
    "tlt.CrossLayerConfig(layers=3, d_in=2, d_out=2, n_features=3)": "ConfigError layers: got 3",
    "tlt.CrossLayerConfig(layers=(0, True), d_in=2, d_out=2, n_features=3)": "ConfigError layers: got (0, True)",
    "tlt.TranscoderSet([transcoders[0]])": "ConfigError transcoder set: got list; expected a mapping",
    "tlt.TranscoderSet({0: None})": "ConfigError transcoder set: got {0: 'NoneType'}",
    "tlt.TranscoderSet({True: transcoders[1]})": "ConfigError transcoder set: got {True: 'Transcoder'}",
    "tlt.save(transcoders, None)": "ConfigError folder: got None; expected a path or a name",
    "tlt.save(copy.deepcopy(transcoders[1]).to('meta'), 'nowhere')": "ConfigError W_enc.T: got a tensor on the meta device",
    "tlt.save(copy.deepcopy(transcoders[1]).to(torch.float8_e4m3fn), 'nowhere')": "ConfigError W_enc.T: got torch.float8_e4m3fn",
    "tlt.save(with_nan(), 'nowhere')": "ConfigError W_dec: got NaN or infinite values",
    "tlt.load(None)": "ConfigError source: got None",
    "tlt.load(b'x')": "ConfigError source: got b'x'",
    "tlt.load('.', dtype='float32')": "ConfigError dtype: got 'float32'; expected a floating-point dtype",
    "tlt.load('.', dtype=torch.float8_e4m3fn)": "ConfigError dtype: got torch.float8_e4m3fn",
    "tlt.load('.', device='cude')": "ConfigError device: got 'cude'; expected a device that torch can use here",
    "tlt.load('.', device=None)": "ConfigError device: got None",
    "splice(model, transcoders, exclude=[53])": "ConfigError exclude: got [53] (the vocabulary ends at 52)",
    "splice(model, transcoders, exclude=[-1])": "ConfigError exclude: got [-1] (the vocabulary",
    "splice(model, transcoders, exclude=b'x')": "ConfigError exclude: got b'x'",
    "config(seed='a')": "ConfigError TrainConfig.seed: got 'a'; expected an integer from 0",
    "config(lr='x')": "ConfigError TrainConfig.lr: got 'x'; expected more than 0",
    "config(lr=float('inf'))": "ConfigError TrainConfig.lr: got inf",
    "config(betas=(0.9,))": "ConfigError TrainConfig.betas: got (0.9,); expected two numbers",
    "config(betas=0.9)": "ConfigError TrainConfig.betas: got 0.9; expected two numbers",
    "config(data_units='no')": "ConfigError TrainConfig.data_units: got 'no'; expected True or False",
    "config(batch_size=None)": "ConfigError TrainConfig.batch_size: got None; expected an integer above 0",
    "config(auxk=None)": "ConfigError TrainConfig.auxk: got None; expected 0 or more",
}


@cache
def messages() -> dict[str, str]:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREAMBLE, json.dumps(list(CASES))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize(("case", "expected"), CASES.items())
def test_message(case: str, expected: str) -> None:
    assert expected in messages()[case]
