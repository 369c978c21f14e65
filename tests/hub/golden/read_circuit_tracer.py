"""What circuit-tracer computes from folders in its layouts.

`.peers/circuit-tracer/bin/python -m tests.hub.golden.read_circuit_tracer FOLDER…` writes beside each folder
a file of that name, `.safetensors`, with the `outputs` of `tests.hub.golden.circuit_tracer`.
"""

import sys
from pathlib import Path

from safetensors.torch import save_file

from tests.hub.golden.circuit_tracer import outputs, peer_clt, peer_set


def main(folder: Path) -> None:
    """Read the set or the cross-layer transcoder of one folder."""
    is_clt = "cross_layer_transcoder" in (folder / "config.yaml").read_text()
    read = outputs("read", peer_clt(folder) if is_clt else peer_set(folder))
    save_file(read, folder.with_suffix(".safetensors"))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        main(Path(argument))
