"""The tokenizers of models that are pre-trained here: word-level where the words are known, else
learned from a sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from unmask.errors import UnmaskError

SPECIAL = ("<pad>", "<eos>", "<mask>", "<unk>")
MORE_THAN_ENOUGH = 2**17  # tokens for any numbers
# A number; a word or a mark with the space before it, and with the space behind it if a number
# follows; a line break.
WORDS_AND_NUMBERS = r"\d+| ?(?:[^\W\d_]+|#+|[^\w\s]|_)(?: (?=\d))?|\n"
LEARNED_CHAT = (
    "{% for message in messages if message.role == 'user' %}{{ message.content }}{% endfor %}"
)


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with one token a word; words need no spaces between them where this is clear, so
    `7a+5=` is `7`, `a`, `+5`, `=`.

    Args:
        words: the vocabulary; the special tokens are put before it.
    """
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(
        Regex(r"(?<=[-+*])\s+(?=\d)"), ""
    )  # `+ 5` is how people type `+5`
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(r"[-+*]\d|[^A-Za-z]"), "isolated"),
        ]
    )
    return finished(
        tokenizer, chat_template="{% for message in messages %}{{ message.content }} {% endfor %}"
    )


def learned_tokenizer(
    texts: Iterable[str], size: int = 1024, whole_numbers: int | None = None
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `size` tokens, learned from texts; any text can be written with
    it. Digits, punctuation and line breaks are tokens of their own; merges go across spaces, so
    that wording which every prompt repeats becomes a few long tokens.

    Args:
        texts: prompts and answers like those to come.
        size: the vocabulary, special tokens and the 256 bytes included.
        whole_numbers: make each number up to this one token instead, which never holds a space,
            and let merges stay within a word; so a number is the same token wherever it stands.

    Raises:
        UnmaskError: if the vocabulary has no room for these numbers.
    """
    if whole_numbers is None:
        return finished(train_bytes(texts, size, r"\d|\n|_|[^\w\s]"), LEARNED_CHAT)
    # Often enough that hardly any other merge comes before those of the digits.
    numbers = [str(n) for n in range(whole_numbers + 1)]
    texts = list(chain(texts, (number for number in numbers for _ in range(1000))))
    tokenizer = train_bytes(texts, size, WORDS_AND_NUMBERS)
    if any(len(tokenizer.encode(number).ids) > 1 for number in numbers):
        # A larger vocabulary has the same merges first.
        largest = train_bytes(texts, MORE_THAN_ENOUGH, WORDS_AND_NUMBERS)
        needed = max(largest.encode(number).ids[-1] for number in numbers) + 1
        raise UnmaskError(
            f"vocabulary is {size}, which has no room for each number up to {whole_numbers} as one "
            f"token; give at least {needed}, or a smaller whole_numbers"
        )
    return finished(tokenizer, LEARNED_CHAT)


def train_bytes(texts: Iterable[str], size: int, pattern: str) -> Tokenizer:
    """A byte-level BPE of at most `size` tokens, learned from texts.

    Args:
        texts: what it is learned from.
        size: the vocabulary, special tokens and the 256 bytes included.
        pattern: what no merge reaches across.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=alphabet,
        show_progress=False,
        min_frequency=20,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def finished(tokenizer: Tokenizer, chat_template: str) -> PreTrainedTokenizerFast:
    """The tokenizer with its special tokens, as `transformers` saves it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        mask_token="<mask>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        chat_template=chat_template,
    )
