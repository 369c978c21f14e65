"""Words the prompts are made of; each task takes those that are single tokens of its tokenizer."""

from typing import Final

MEN: Final = tuple(
    "James John Robert Michael William David Richard Joseph Thomas Charles Daniel Matthew Anthony Mark Paul "
    "Steven Andrew George Kevin Brian Edward Peter Jack Adam Henry".split()
)
WOMEN: Final = tuple(
    "Mary Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Sarah Karen Lisa Nancy Betty Margaret Sandra "
    "Ashley Emily Anna Laura Rebecca Helen Amy Kate Alice Julia".split()
)
PLACES: Final = tuple("store park school office station garden hospital restaurant".split())
OBJECTS: Final = tuple("book drink ring ball letter key computer basketball".split())
SPANS: Final = tuple(
    "war siege reign truce famine plague drought voyage expedition feud revolt treaty trade journey embargo "
    "conflict campaign peace strike dispute alliance occupation crusade blockade".split()
)
NOUNS: Final = tuple(
    (noun, f"{noun}s")
    for noun in "boy girl doctor teacher student king author farmer driver pilot actor manager lawyer "
    "officer parent friend neighbor player singer writer".split()
)
VERBS: Final = (("is", "are"), ("was", "were"), ("has", "have"))
