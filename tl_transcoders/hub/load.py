"""`load`: transcoders from a folder or a hub repository."""

from collections.abc import Iterable
from pathlib import Path

import torch

from tl_transcoders.errors import HubError, TranscoderFormatError
from tl_transcoders.hub.files import check_named
from tl_transcoders.hub.format import Format, Loaded
from tl_transcoders.hub.place import open_source
from tl_transcoders.hub.releases import Choice, resolve_name
from tl_transcoders.hub.request import make_request
from tl_transcoders.hub.source import AbstractSource


def load(
    source: str | Path,
    *,
    layers: Iterable[int] | None = None,
    width: str | None = None,
    l0: str | int | None = None,
    kind: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    verify: bool = False,
    trust: Iterable[str] = (),
) -> Loaded:
    """Transcoders from a folder or a hub repository.

    Weights are mapped from the files and read when first used; parameters have `requires_grad=False`.
    From a repository only the files of `layers` are downloaded, and the commit they came from is recorded
    as `origin.revision`.

    **Arguments:**

    - `source`: a folder, `"org/repo"`, or the name of a release (see `tl_transcoders.releases`), the latter two
      with an optional `"@revision"`. A folder that exists wins.
    - `layers`: which to load; all of them if left out. A cross-layer transcoder is loaded as a whole.
    - `width`, `l0`, `kind`: which set, where a repository holds several (Gemma Scope: `"16k"`, `"small"`,
      `"transcoder_all"`). Where every transcoder has a folder of its own, `kind` is a pattern of their names.
      A release's name brings its own defaults.
    - `revision`: a branch, tag or commit of the repository.
    - `dtype`, `device`: what to convert to; a conversion copies.
    - `verify`: also compare SHA-256 sums and refuse NaN and infinite weights. Reads every byte.
    - `trust`: further repositories that the set's config may take files from
      (`["google/gemma-scope-2b-pt-transcoders"]`); those it names are refused otherwise.

    **Raises:** HubError where the place cannot be read; TranscoderFormatError where its files are not what
    they should be or lack a layer; ConfigError for arguments that no set can satisfy.

    ```python
    cfg = TranscoderConfig(layer=3, d_in=5, d_out=5, n_features=11)
    folder = save(Transcoder.init(cfg, seed=0), "my-transcoders")
    load(folder, layers=[3])[3].W_dec
    ```
    """
    check_named(source, "source")
    asked = Choice(source=source, revision=revision, width=width, l0=l0, kind=kind)
    patterns = [pattern for layout in _formats() for pattern in layout.patterns]
    try:
        choice = resolve_name(asked)
        request = make_request(
            layers=layers,
            width=choice.width,
            l0=choice.l0,
            kind=choice.kind,
            dtype=dtype,
            device=device,
            verify=verify,
            trust=trust,
        )
        place = open_source(choice.source, revision=choice.revision, patterns=patterns)
        return _layout(place).read(place, request)
    except HubError:
        raise
    except OSError as error:
        raise HubError(
            str(source),
            got=f"an error while reading: {error}",
            expected="readable files",
            do="Check the path, its permissions and the disk.",
        ) from error


def _layout(place: AbstractSource) -> Format:
    files: frozenset[str] = frozenset()
    for files in place.listings():
        for layout in _formats():
            if layout.recognises(files) and layout.confirms(place):
                return layout
    listed = sorted(files)
    shown = ", ".join(listed[:5]) + (", …" if len(listed) > 5 else "")
    raise TranscoderFormatError(
        str(place),
        got=f"{len(files)} files ({shown})" if listed else "no files",
        expected=f"the files of a known format ({', '.join(layout.name for layout in _formats())})",
        do="Check that the folder or repository holds transcoders.",
    )


def _formats() -> tuple[Format, ...]:
    from tl_transcoders.hub.formats import (
        FORMATS,
    )  # the readers take longer to import than the rest of a splice

    return FORMATS
