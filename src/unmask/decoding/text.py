"""The text of a buffer that is not finished: whole characters, and marks where masks are."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Int
from torch import Tensor

from unmask.decoding.generation import answer_of, answer_text, find_stop
from unmask.models.base import Model

BROKEN = "\ufffd"  # what a tokenizer writes for a part of a character


def text_so_far(
    model: Model,
    tokens: Sequence[int] | Int[Tensor, " L"],
    *,
    stop: Sequence[str] = (),
    hole: str = "·",
) -> str:
    """The text of a buffer while it fills, up to its end of text.

    A character that takes several tokens is shown once all of them are there; until then they count
    as holes. What stands before the first hole changes no more; for that part alone give the tokens
    before the first mask.

    Args:
        model: whose tokenizer wrote the tokens.
        tokens: a row of `Step.tokens`: int64 [L], committed tokens and masks.
        stop: strings that end the text, which is cut before the first one that is settled.
        hole: what stands for each position that is not known yet.

    Examples:
        >>> from unmask.decoding import text_so_far
        >>> model = unmask.load_model("embedded/chain")
        >>> for step in unmask.stream(model, ["7 a +5 b *3 ="], "threshold:0.9", max_new_tokens=48):
        ...     text = text_so_far(model, step.tokens[0])
        >>> text
        'a then 7 +5 gives 2 . b then 2 *3 gives 6 . # 6'
    """
    row = answer_of(model, tokens.tolist() if isinstance(tokens, Tensor) else list(tokens))
    masks = (i for i, token in enumerate(row) if token == model.mask_id)
    settled = row[: next(masks, len(row))]
    if find_stop(model, settled, stop) is not None:
        return answer_text(model, settled, stop)
    return "".join(hole if text is None else text for text in token_texts(model, row))


def token_texts(model: Model, row: Sequence[int]) -> list[str | None]:
    """What each token of a buffer adds to the text: whole characters, at the last of their tokens;
    nothing for special tokens; None for masks and for parts of characters that are not whole."""
    texts: list[str | None] = [None] * len(row)
    start = 0
    while start < len(row):
        if row[start] == model.mask_id:
            start += 1
            continue
        stop = start
        while stop < len(row) and row[stop] != model.mask_id:
            stop += 1
        texts[start:stop] = run_texts(model, row[start:stop], start > 0, stop < len(row))
        start = stop
    return texts


def token_labels(model: Model, row: Sequence[int]) -> list[str]:
    """A short label for each token of a buffer: its text without the spaces around it, `␣` for
    spaces alone, `↵` for a line's end, and its name in the vocabulary where it has no text."""
    names = model.tokenizer.convert_ids_to_tokens(list(row))
    labels: list[str] = []
    for name, text in zip(names, token_texts(model, row), strict=True):
        labels.append((text.strip(" ").replace("\n", "↵") or "␣") if text else name)
    return labels


def run_texts(
    model: Model, run: Sequence[int], cut_before: bool, cut_behind: bool
) -> list[str | None]:
    """`token_texts` of tokens without masks between them.

    Args:
        model: whose tokenizer wrote them.
        run: the tokens.
        cut_before: whether a mask stands before them, so that they may begin within a character.
        cut_behind: whether one stands behind them, so that they may end within one.
    """
    special = {*model.never_set, *model.end_set, *model.tokenizer.all_special_ids}
    plain = [i for i, token in enumerate(run) if token not in special]
    texts: list[str | None] = ["" for _ in run]

    def decode(first: int, last: int) -> str:
        return model.tokenizer.decode([run[i] for i in plain[first:last]])

    # What a token adds is seen behind those of the text before, as some tokenizers write spaces.
    context, shown = 0, 0
    for end in range(1, len(plain) + 1):
        text, last = decode(context, end), end == len(plain)
        broken = text.endswith(BROKEN)
        if broken and (not last or cut_behind):
            continue
        text = text[len(decode(context, shown)) :]
        if cut_before and shown == 0 and text.startswith(BROKEN):
            text = text.lstrip(BROKEN)
            for place in plain[: end if not text else end - 1]:
                texts[place] = None
        if text:
            texts[plain[end - 1]] = text
        context, shown = shown, end
    for place in plain[shown:]:
        texts[place] = None
    return texts
