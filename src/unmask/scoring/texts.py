"""Texts to score as token ids, and what a model says of their tokens where some are masked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import torch

from unmask.decoding.canvas import padded_width
from unmask.decoding.options import check_whole
from unmask.decoding.prompts import Prompt, encode_prompt
from unmask.decoding.request import as_tuple
from unmask.errors import UnmaskError, short_text
from unmask.models.base import Model, check_model
from unmask.models.limits import canvas_limit
from unmask.transfer import to_device

SCORED = "text to be scored"  # what errors call it


@dataclass(frozen=True)
class Text:
    """A text of which some tokens are scored, given all the others.

    Attributes:
        tokens: token ids of the whole text.
        places: which of them are scored, in rising order.

    Raises:
        UnmaskError: if one of them is no sequence, or the places are no rising positions in it.
    """

    tokens: tuple[int, ...]
    places: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", as_tuple("tokens", self.tokens))
        object.__setattr__(self, "places", as_tuple("places", self.places))
        size, whole = len(self.tokens), all(type(place) is int for place in self.places)
        if not whole or list(self.places) != sorted(set(self.places) & set(range(size))):
            raise UnmaskError(
                f"places is {short_text(repr(self.places))}; give rising positions within the text "
                f"of {size} tokens"
            )

    @property
    def given(self) -> tuple[int, ...]:
        """The tokens that are not scored."""
        scored = set(self.places)
        return tuple(token for i, token in enumerate(self.tokens) if i not in scored)

    @property
    def targets(self) -> tuple[int, ...]:
        """The tokens that are scored."""
        return tuple(self.tokens[i] for i in self.places)


@dataclass(frozen=True)
class Question:
    """What is asked of a model in one row of a forward pass.

    Attributes:
        tokens: the canvas, masks included.
        places: masked positions, at least one.
        targets: the tokens whose probability is asked for, one for each place.
    """

    tokens: tuple[int, ...]
    places: tuple[int, ...]
    targets: tuple[int, ...]


def encode_pair(
    model: Model,
    prompt: Prompt,
    continuation: str | Sequence[int],
    max_new_tokens: int | None = None,
) -> Text:
    """A prompt and what follows it, as a text whose continuation is scored.

    Two strings are tokenized together, as a tokenizer may write what follows a space in another
    way; spaces at the end of the prompt count as the beginning of the continuation then.

    Args:
        model: whose tokenizer and chat template are used.
        prompt: a string, a list of chat messages, or token ids.
        continuation: a string or token ids, at least one token.
        max_new_tokens: L; the continuation is filled up with end-of-text tokens to L, as an answer
            stands on a canvas of L when it is decoded, and these are scored too. None scores the
            continuation alone, on a canvas that ends with it.

    Raises:
        UnmaskError: if one of them cannot be read, the continuation is empty, it holds a token
            that the model never proposes, or it has more than L tokens.
    """
    check_model(model)
    if max_new_tokens is not None:
        check_whole("max_new_tokens", max_new_tokens, 1)
    text = join_pair(model, prompt, continuation)
    if max_new_tokens is not None:
        text = fill_up(model, text, max_new_tokens, "max_new_tokens")
    return check_text(model, text)


def fill_up(model: Model, text: Text, length: int, name: str) -> Text:
    """A text whose last tokens are scored, with end-of-text tokens behind it that are scored too,
    so that `length` tokens are; without a token to score it stays as it is.

    Args:
        model: whose end of text is used.
        text: of which the tokens from the first scored one on are all scored.
        length: L.
        name: of the option that says L.

    Raises:
        UnmaskError: if more tokens than that are scored already.
    """
    count = len(text.places)
    if count > length:
        raise UnmaskError(
            f"a continuation has {count} tokens and {name} is {length}; give at least {count}"
        )
    if not count:
        return text
    tokens = text.tokens + (model.eos_ids[0],) * (length - count)
    return Text(tokens, tuple(range(len(tokens) - length, len(tokens))))


def join_pair(
    model: Model,
    prompt: Prompt,
    continuation: str | Sequence[int],
    encode: Callable[..., list[int]] = encode_prompt,
) -> Text:
    """A prompt and what follows it, as `encode_pair` makes it, whether or not it can be scored.

    Args:
        model: as for `encode_pair`.
        prompt: as for `encode_pair`.
        continuation: as for `encode_pair`.
        encode: token ids of what is scored; `prompt_ids` takes tokens that no answer holds, too.

    Raises:
        UnmaskError: if one of them cannot be read.
    """
    if isinstance(prompt, str) and isinstance(continuation, str):
        stripped = prompt.rstrip()
        continuation = prompt[len(stripped) :] + continuation
        before = encode_prompt(model, stripped)
        whole = encode(model, stripped + continuation, what=SCORED)
        if whole[: len(before)] == before:
            return Text(tuple(whole), tuple(range(len(before), len(whole))))
        prompt = stripped
    before = encode_prompt(model, prompt)
    whole = [*before, *encode(model, continuation, what=SCORED)]
    return Text(tuple(whole), tuple(range(len(before), len(whole))))


def check_text(model: Model, text: Text) -> Text:
    """The text, if this model can score it.

    Raises:
        UnmaskError: if it is no `Text`, nothing is scored, it is too long, or it holds a token that
            the model does not have, or scores one that the model never proposes.
    """
    if not isinstance(text, Text):
        raise UnmaskError(f"a text is {short_text(repr(text))}; give what encode_pair returns")
    check_size(model, text)
    last = model.vocabulary - 1
    if wrong := [x for x in text.tokens if type(x) is not int or not 0 <= x <= last]:
        raise UnmaskError(
            f"a {SCORED} has the token id {wrong[0]!r}; this model's ids are 0 to {last}"
        )
    if wrong := impossible_tokens(model, text):
        name = short_text(repr(model.tokenizer.convert_ids_to_tokens(wrong[0])))
        raise UnmaskError(
            f"a continuation holds the token {name}, which this model never proposes and gives no "
            "probability; leave it out"
        )
    return text


def check_size(model: Model, text: Text) -> None:
    """Refuses a text of which nothing is scored, or that is too long.

    Raises:
        UnmaskError: if so.
    """
    if not text.places:
        raise UnmaskError("a continuation has no tokens; give at least one token to score")
    most = min(canvas_limit(model.network.config), model.max_positions or 2**62)
    if len(text.tokens) > most:
        raise UnmaskError(
            f"a prompt and its continuation have {len(text.tokens)} tokens; give this model at "
            f"most {most}"
        )


def impossible_tokens(model: Model, text: Text) -> list[int]:
    """The scored tokens that the model never proposes: a text with one has no probability."""
    return [token for token in text.targets if token in model.never_set]


def split_text(model: Model, text: Text) -> list[Text]:
    """The parts of a text that are scored one after the other, each given those before.

    In full attention there is one. A block-causal model decides block after block and sees nothing
    behind a block, so each of its blocks that holds a scored token is a part.
    """
    size = model.attention_block
    if size is None:
        return [text]
    parts = []
    for block, places in groupby(text.places, key=lambda place: place // size):
        parts.append(Text(text.tokens[: (block + 1) * size], tuple(places)))
    return parts


def hide_places(model: Model, text: Text, hidden: Iterable[int]) -> tuple[int, ...]:
    """The tokens of a text with masks at some positions."""
    tokens = list(text.tokens)
    for place in hidden:
        tokens[place] = model.mask_id
    return tuple(tokens)


def ask_in_turn(
    model: Model, groups: Iterable[Sequence[Question]], batch_size: int
) -> Iterator[tuple[Sequence[Question], list[list[float]]]]:
    """Groups of questions in their order, each with what `ask_model` says of them. About four
    batches are made at a time, so that memory does not grow with how many groups there are."""
    waiting: list[Sequence[Question]] = []
    count = 0
    for group in groups:
        waiting.append(group)
        count += len(group)
        if count >= 4 * batch_size:
            yield from ask_groups(model, waiting, batch_size)
            waiting, count = [], 0
    yield from ask_groups(model, waiting, batch_size)


def ask_groups(
    model: Model, groups: Sequence[Sequence[Question]], batch_size: int
) -> Iterator[tuple[Sequence[Question], list[list[float]]]]:
    """Groups of questions that are asked together."""
    questions = [question for group in groups for question in group]
    answers = iter(ask_model(model, questions, batch_size))
    return ((group, list(islice(answers, len(group)))) for group in groups)


@torch.no_grad()
def ask_model(model: Model, questions: Sequence[Question], batch_size: int) -> list[list[float]]:
    """For each question the log-probabilities of its targets: nats, at τ = 1, among the tokens that
    the model may propose. Equal questions are forwarded once."""
    # Longest first, so that rows of like length share a pass and little is padded.
    distinct = sorted(dict.fromkeys(questions), key=lambda question: -len(question.tokens))
    found: dict[Question, list[float]] = {}
    for start in range(0, len(distinct), batch_size):
        part = distinct[start : start + batch_size]
        tokens, inside = lay_out(model, [question.tokens for question in part])
        longest = max(len(question.places) for question in part)
        places = pad_rows([question.places for question in part], longest, 0)
        targets = pad_rows([question.targets for question in part], longest, 0)
        wanted = pad_rows([[1] * len(question.places) for question in part], longest, 0)
        needed = to_device(wanted, model.device) > 0
        hidden = model.hidden_at(tokens, inside, to_device(places, model.device))
        log_probs, _ = model.token_log_probs(
            hidden,
            to_device(targets, model.device),
            needed=needed,
            count=sum(len(question.places) for question in part),
        )
        for question, values in zip(part, log_probs.tolist(), strict=True):
            found[question] = values[: len(question.places)]
    return [found[question] for question in questions]


def lay_out(model: Model, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Canvases side by side, padded behind as the decoder pads them: tokens int64 [B, S], and bool
    [B, S], False at padding."""
    width = padded_width(model, max(map(len, rows)))
    tokens = to_device(pad_rows(rows, width, model.pad_id), model.device)
    inside = pad_rows([[1] * len(row) for row in rows], width, 0)
    return tokens, to_device(inside, model.device) > 0


def pad_rows(rows: Sequence[Sequence[int]], width: int, fill: int) -> list[list[int]]:
    """Rows of one width."""
    return [[*row, *[fill] * (width - len(row))] for row in rows]
