"""The word-level tokenizer of the year-span model."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tl_transcoders.demo.vocabulary import BOS, PAD, UNKNOWN, VOCABULARY

_PIECE = r" ?[A-Za-z]+| ?\d{2}|[^A-Za-z0-9]"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Splits ` 1742` into ` 17` and `42` as GPT-2 does; decoding joins the pieces, so text round-trips."""
    tokenizer = Tokenizer(models.WordLevel(vocab=VOCABULARY, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=BOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )
