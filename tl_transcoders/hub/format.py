"""What every published layout offers: to recognise its files, and to read them."""

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import final

from tl_transcoders.hub.request import Request
from tl_transcoders.hub.source import AbstractSource
from tl_transcoders.transcoders import CrossLayerTranscoder, TranscoderSet

Loaded = TranscoderSet | CrossLayerTranscoder


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One published layout.

    **Arguments:**

    - `name`: what messages call it.
    - `patterns`: the small files fetched before anything is decided, as glob patterns.
    - `recognises`: whether a folder of these relative file names has the layout.
    - `confirms`: where names are not enough, whether the small files on disk say so too.
    - `read`: the transcoders; it fetches from the source the files it needs and no others.
    """

    name: str
    patterns: tuple[str, ...]
    recognises: Callable[[Set[str]], bool]
    read: Callable[[AbstractSource, Request], Loaded]
    confirms: Callable[[AbstractSource], bool] = lambda _: True
