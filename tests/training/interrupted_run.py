"""A run that waits to be interrupted: `python -m tests.training.interrupted_run FOLDER`."""

import sys
import time

import torch

from tests.training.models import config, model, tokens
from tl_transcoders.training import StepReport, train


def slowly(n_tokens: int, _: StepReport) -> None:
    print("tokens", n_tokens, flush=True)
    time.sleep(0.3)


if __name__ == "__main__":
    torch.set_num_threads(
        1
    )  # as the tests have: the same bytes are promised for the same number of threads
    given = config(checkpoint=sys.argv[1], checkpoint_every=10**6)
    train(model(), layers=[0, 1], config=given, tokens=tokens(), on_step=slowly)
