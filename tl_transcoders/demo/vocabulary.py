"""The words of the year-span model, and the number of each."""

from torch import Tensor, tensor

BOS = "<|endoftext|>"
PAD = "<|pad|>"
UNKNOWN = "<|unknown|>"

NOUNS = tuple(
    "war siege reign truce famine plague drought voyage expedition feud revolt treaty "
    "trade journey embargo conflict campaign peace strike dispute alliance occupation crusade "
    "blockade".split()
)
CENTURIES = tuple(range(11, 18))
PEOPLE = tuple("king queen bishop duke merchants sailors farmers soldiers".split())
VERBS = tuple("feared praised remembered ignored opposed wanted".split())
ADJECTIVES = tuple("long bitter costly famous quiet strange".split())
PLACES = tuple("north south coast valley capital islands".split())

_GRAMMAR = "the lasted from year to began in of was came before after near".split()


def two_digits(number: int) -> str:
    """`7` as `"07"`, the token that follows a century."""
    return f"{number:02d}"


def _words() -> list[str]:
    """Every token once; a word inside a sentence carries its leading space, as in GPT-2."""
    lower = [*_GRAMMAR, *NOUNS, *PEOPLE, *VERBS, *ADJECTIVES, *PLACES]
    starts = ["The", "In", "Nobody"]
    return [
        *(BOS, PAD, UNKNOWN, "."),
        *(two_digits(number) for number in range(100)),
        *(f" {century}" for century in CENTURIES),
        *starts,
        *(f" {word}" for word in (*starts, *lower)),
    ]


VOCABULARY: dict[str, int] = {word: number for number, word in enumerate(_words())}


def two_digit_ids() -> Tensor:
    """Token ids of `"00"` to `"99"`, in order: `[100]`."""
    return tensor([VOCABULARY[two_digits(number)] for number in range(100)])
