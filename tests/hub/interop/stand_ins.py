"""Stand-ins for peers' objects: a config that becomes plain data, and a state dict."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor


@dataclass
class Config:
    data: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return self.data


@dataclass
class StandIn:
    cfg: Config
    state: dict[str, Tensor]
    d_in: int = 5

    def state_dict(self) -> dict[str, Tensor]:
        return self.state


def stand_in(folder: Path, weights: str) -> StandIn:
    """What a peer's own loader makes of a folder, as far as we look."""
    data = json.loads((folder / "cfg.json").read_text())
    return StandIn(Config(data), load_file(folder / weights))
