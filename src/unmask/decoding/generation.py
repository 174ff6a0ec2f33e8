"""What decoding gives back: a step, a finished row, a whole call, and what it cost."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING

from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.models.base import Model
from unmask.policies.base import Observation

if TYPE_CHECKING:
    from unmask.decoding.recorder import Recorder
    from unmask.decoding.request import Request

# By how many characters a prefix of a text may be longer than it is in the whole text: WordPiece's
# clean-up of spaces may still join its end with what follows.
UNSETTLED = 8


@dataclass(frozen=True)
class Cost:
    """What was really run; NFE are counted apart, for each row.

    Attributes:
        model_calls: forward passes of batches.
        rows: rows in them: fewer than the sum of NFE where rows were shared or had not changed,
            more where guidance forwards a row twice, or the full blocks of a prompt are forwarded
            for a block-causal model's cache.
        positions: positions in them, padding included.
        padding: how many of those were padding.
    """

    model_calls: int = 0
    rows: int = 0
    positions: int = 0
    padding: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)))


@dataclass(frozen=True)
class Transitions:
    """Every decision of a call, in the order taken; T is the sum of the rows' NFE.

    Attributes:
        row: int64 [T], which row decided.
        observation: what it saw, T rows.
        action: int16 [T, L], what the policy decided to reveal: 0 where nothing, else the place in
            its order, or 1 where it has none. L is what the policy saw: the block of a block-causal
            model. With choices, `Generation.reveal_step` says what of it was revealed.
        passes: int64 [T], forward passes that the row had behind it.

    Examples:
        >>> model = unmask.load_model("embedded/chain")
        >>> generation = unmask.generate(
        ...     model, ["7 a +5 ="], "confidence:24", max_new_tokens=48, record=True
        ... )
        >>> generation.transitions.action.shape
        torch.Size([2, 48])
    """

    row: Int[Tensor, " T"]
    observation: Observation
    action: Int[Tensor, "T L"]
    passes: Int[Tensor, " T"]


@dataclass(frozen=True)
class Step:
    """What one pass did to the rows that took part. Its tensors are not changed afterwards.

    Where rows have buffers of different lengths, L is the longest, and a shorter buffer is padded
    behind with the end-of-text token.

    Attributes:
        rows: int64 [B], the rows that took part: tickets of the engine, or prompt numbers in
            `stream`.
        tokens: int64 [B, L], their buffers after the step: committed tokens, and masks.
        fresh: bool [B, L], what the step revealed.
        proposals: int64 [B, L], what the model proposed in the step, for every position that the
            policy could choose from.
        confidence: fp32 [B, L], the model's probabilities of those proposals.
        finished: bool [B], which rows are done.
        results: the rows that are done.

    Examples:
        >>> model = unmask.load_model("embedded/chain")
        >>> for step in unmask.stream(model, ["7 a +5 ="], "confidence:24", max_new_tokens=48):
        ...     print(step.rows.tolist(), int(step.fresh.sum()), step.finished.tolist())
        [0] 24 [False]
        [0] 24 [True]
    """

    rows: Int[Tensor, " B"]
    tokens: Int[Tensor, "B L"]
    fresh: Bool[Tensor, "B L"]
    proposals: Int[Tensor, "B L"]
    confidence: Float[Tensor, "B L"]
    finished: Bool[Tensor, " B"]
    results: tuple[Result, ...] = ()


@dataclass(frozen=True, eq=False)
class Result:
    """One finished row.

    Attributes:
        ticket: its number in the engine, or the prompt's number in `stream`.
        request: what was asked.
        tokens: int64 [L], the generation buffer; the mask token where the limit of passes came
            first.
        reveal_step: int64 [L], the step that revealed each position, from 0; −1 never.
        nfe: forward passes that the row was part of while it had something to reveal.
        error: why the row could not be finished; "" if it was.
    """

    ticket: int
    request: Request
    tokens: Int[Tensor, " L"]
    reveal_step: Int[Tensor, " L"]
    nfe: int
    error: str = ""


@dataclass(frozen=True)
class Generation:
    """What a call of `generate`, `infill` or `decode` gives for N prompts.

    Attributes:
        tokens: int64 [N, L], the generation buffers; the mask token where the limit of passes came
            first (never at inference). Shorter buffers are padded behind with the end-of-text
            token.
        text: the decoded buffers up to the first end-of-text token or stop string, special tokens
            and masks dropped. When infilling, the whole text, without what was filled in from a
            stop string on.
        nfe: int64 [N], forward passes each row was part of while it had something to reveal.
        reveal_step: int64 [N, L], the step that revealed each position, from 0; −1 never.
        answer_tokens: int64 [N], tokens revealed before the first end-of-text token or stop string:
            what tokens per forward are counted with.
        cost: what was really run.
        recorder: holds the decisions, if they were recorded.

    Examples:
        >>> model = unmask.load_model("embedded/chain")
        >>> generation = unmask.generate(model, ["7 a +5 ="], "threshold:0.9", max_new_tokens=48)
        >>> generation.tokens.shape, generation.reveal_step.shape
        (torch.Size([1, 48]), torch.Size([1, 48]))
        >>> bool(generation.nfe[0] == generation.reveal_step.max() + 1)
        True
    """

    tokens: Int[Tensor, "N L"]
    text: list[str]
    nfe: Int[Tensor, " N"]
    reveal_step: Int[Tensor, "N L"]
    answer_tokens: Int[Tensor, " N"]
    cost: Cost
    recorder: Recorder | None = None

    @cached_property
    def transitions(self) -> Transitions | None:
        """The decisions, put together when they are first asked for; None if there are none."""
        return None if self.recorder is None else self.recorder.transitions()


def row_text(model: Model, request: Request, row: Sequence[int]) -> str:
    """The text of one row: up to its end or its first stop string; when infilling, the whole text,
    without what was filled in from a stop string on."""
    if request.holes is None:
        return answer_text(model, row, request.options.stop)
    holes, tokens = request.holes, list(row[: len(request.holes)])
    count, rest = find_row_stop(model, request, tokens) or (len(tokens), "")
    whole: list[int | None] = list(request.prompt)
    for i, position in enumerate(holes):
        whole[position] = tokens[i] if i < count else None
    text = partial(model.tokenizer.decode, skip_special_tokens=True)
    kept = text([token for token in whole if token is not None])
    if not rest:
        return kept
    # `rest` is the beginning of a token; it stands where that token stood.
    head = text([token for token in whole[: holes[count]] if token is not None])
    return head + rest + kept[len(head) :]


def answer_text(model: Model, row: Sequence[int], stop: Sequence[str]) -> str:
    """The text of a buffer up to its end or the first of some strings, which are looked for before
    special tokens are dropped."""
    tokenizer, tokens = model.tokenizer, answer_of(model, row)
    cut = find_stop(model, tokens, stop)
    if cut is None:
        return tokenizer.decode(buffer_tokens(model, tokens), skip_special_tokens=True)
    count, rest = cut
    # `rest` is the beginning of one token; a special one has no text of its own.
    special = count < len(tokens) and tokens[count] in (
        *model.never_set,
        *tokenizer.all_special_ids,
    )
    before = tokenizer.decode(buffer_tokens(model, tokens[:count]), skip_special_tokens=True)
    return before if special else before + rest


def answer_of(model: Model, row: Sequence[int]) -> list[int]:
    """The tokens before the first end of text."""
    ends = (i for i, token in enumerate(row) if token in model.end_set)
    return list(row[: next(ends, len(row))])


def buffer_tokens(model: Model, row: Sequence[int]) -> list[int]:
    """The tokens before the first end of text, without masks and ids that no text contains."""
    return [token for token in answer_of(model, row) if token not in model.never_set]


def find_stop(model: Model, tokens: Sequence[int], stop: Sequence[str]) -> tuple[int, str] | None:
    """Where the first stop string begins in a text.

    The strings are looked for in the text with its special tokens, as they are often names of such.

    Returns:
        How many tokens lie wholly before it, and the text between those and the string; None if
        there is no stop string.
    """
    if not stop:
        return None
    decode = model.tokenizer.decode
    whole = decode(list(tokens))
    places = [place for text in stop if (place := whole.find(text)) >= 0]
    if not places:
        return None
    before = whole[: min(places)]
    count = count_before(model, tokens, before)
    return count, before[len(decode(list(tokens[:count]))) :]


def count_before(model: Model, tokens: Sequence[int], before: str) -> int:
    """How many tokens lie wholly in the beginning of their text.

    Texts of growing prefixes grow, but for their ends: half a character decodes to a replacement
    character, and some tokenizers join what stands side by side. So the count is searched from a
    little above.
    """

    def text(count: int) -> str:
        return model.tokenizer.decode(list(tokens[:count]))

    most = len(before) + UNSETTLED
    count = bisect_right(range(len(tokens)), most, key=lambda n: len(text(n)))
    while not before.startswith(text(count)):
        count -= 1
    return count


def find_row_stop(model: Model, request: Request, tokens: Sequence[int]) -> tuple[int, str] | None:
    """Where the first stop string begins in the first tokens of a row's buffer, as `find_stop`.

    When infilling, it is looked for in each run of neighbouring holes: between two runs stands text
    of the prompt.
    """
    stop, holes = request.options.stop, request.holes
    if not stop or holes is None:
        return find_stop(model, tokens, stop)
    begins = [i for i in range(len(tokens)) if i == 0 or holes[i] > holes[i - 1] + 1]
    for first, end in pairwise([*begins, len(tokens)]):
        if (cut := find_stop(model, tokens[first:end], stop)) is not None:
            return first + cut[0], cut[1]
    return None


def count_answer(model: Model, request: Request, row: Sequence[int], steps: Sequence[int]) -> int:
    """Tokens that were revealed before the first end of text, or before the first stop string."""
    tokens = answer_of(model, row)
    cut = find_row_stop(model, request, tokens)
    end = len(tokens) if cut is None else cut[0]
    return sum(step >= 0 for step in steps[:end])
