"""From a task's examples to batches of tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import cast

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from unmask.errors import UnmaskError, refuse_errors
from unmask.models.tokenizer import (
    LEARNED_CHAT,
    finished,
    learned_tokenizer,
    word_tokenizer,
)
from unmask.pretraining.config import PretrainConfig
from unmask.pretraining.objective import draw_masks, draw_masks_within
from unmask.tasks import Example, Task
from unmask.tasks.mixture import MixtureSource
from unmask.tasks.sources import DatasetSource, Source

SAMPLE = 2000
TRIES = 100  # examples drawn for one that fits
BATCHES_AT_ONCE = 16  # are drawn and sorted by length
FAR = 10**12  # between the seeds of what is drawn for one step


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer, and how long prompts and answers may be.

    Attributes:
        tokenizer: learned or made for the task.
        prompt_length: the longest prompt in tokens.
        answer_length: the longest answer in tokens; where `buffer_lengths` is not set, all answers
            are padded to it.
        max_new_tokens: the length L that the model's config.json recommends.
    """

    tokenizer: PreTrainedTokenizerFast
    prompt_length: int
    answer_length: int
    max_new_tokens: int


def find_vocabulary(task: Task, config: PretrainConfig) -> Vocabulary:
    """The tokenizer for a task, and its longest prompt and answer in tokens: as the task says, or
    from a sample of its training examples. A run that is resumed keeps its tokenizer.

    Raises:
        UnmaskError: if that cannot be read.
    """
    if says_lengths(task):
        prompt, answer = cast(int, task.max_prompt_tokens), cast(int, task.max_new_tokens)
        return Vocabulary(word_tokenizer(task.words), prompt, answer, answer)
    sample = task.examples("train", SAMPLE)
    saved = config.out / "tokenizer.json"
    if task.words:
        tokenizer = word_tokenizer(task.words)
    elif config.resume and saved.is_file():
        with refuse_errors(f"{saved} cannot be loaded", "start the run again without it"):
            tokenizer = finished(Tokenizer.from_file(str(saved)), LEARNED_CHAT)
    else:
        tokenizer = learned_tokenizer(
            (text for e in sample for text in (e.prompt, e.prefill, e.answer)),
            config.vocabulary,
            config.whole_numbers,
        )
    pairs = tokenize(tokenizer, sample)
    prompt_length = max(len(prompt) for prompt, _ in pairs)
    answer_length = max(len(answer) for _, answer in pairs)
    recommended = None if config.buffer_lengths is None else task.max_new_tokens
    return Vocabulary(tokenizer, prompt_length, answer_length, recommended or answer_length)


def says_lengths(task: Task) -> bool:
    """Whether a task says its words and how long prompts and answers may be, so that nothing is
    measured and an example that does not fit is a fault of the task."""
    return bool(task.words and task.max_prompt_tokens and task.max_new_tokens)


def tokenize(
    tokenizer: PreTrainedTokenizerFast, examples: list[Example]
) -> list[tuple[list[int], list[int]]]:
    """Tokens of each prompt, as `unmask.tasks.prompt_tokens` gives them without a chat, and of its
    answer."""
    texts = [text for e in examples for text in (e.prompt, e.prefill, e.answer)]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [
        (prompt + prefill, answer)
        for prompt, prefill, answer in zip(ids[::3], ids[1::3], ids[2::3], strict=True)
    ]


def encode(vocabulary: Vocabulary, examples: list[Example]) -> tuple[Tensor, Tensor]:
    """Tokens [n, S] of prompt + answer padded with EOS to `answer_length` + padding, and prompt
    lengths [n].

    Raises:
        UnmaskError: if an example does not fit.
    """
    tokenizer = vocabulary.tokenizer
    prompt_length, answer_length = vocabulary.prompt_length, vocabulary.answer_length
    rows, lengths = [], []
    for prompt, answer in tokenize(tokenizer, examples):
        if len(prompt) > prompt_length or len(answer) > answer_length:
            raise UnmaskError(
                f"an example has {len(prompt)} + {len(answer)} tokens; the task allows "
                f"{prompt_length} + {answer_length}"
            )
        answer = answer + [tokenizer.eos_token_id] * (answer_length - len(answer))
        rows.append(prompt + answer + [tokenizer.pad_token_id] * (prompt_length - len(prompt)))
        lengths.append(len(prompt))
    return torch.tensor(rows), torch.tensor(lengths)


@dataclass(frozen=True)
class FixedBatch:
    """Examples whose answers are padded to one length.

    Attributes:
        tokens: [B, S], as `encode` gives them.
        prompt_lengths: [B].
        masks: bool [B, L], hidden answer positions.
    """

    tokens: Tensor
    prompt_lengths: Tensor
    masks: Tensor


@dataclass(frozen=True)
class VariedBatch:
    """Examples of like length, all padded with EOS to the end of the rows.

    Attributes:
        tokens: [B, S].
        ends: [B], the position behind the first EOS of each row.
        masks: bool [B, S], hidden positions.
    """

    tokens: Tensor
    ends: Tensor
    masks: Tensor


def step_seed(config: PretrainConfig, step: int) -> int:
    """What everything that is random in one step is drawn from."""
    return config.seed * 1_000_003 + step


def draw_examples(
    task: Task, config: PretrainConfig, part: int, size: int, shift: int = 0
) -> Iterator[Example]:
    """The training examples of one part of a run, without end. Those of a generator are made for
    it; those of a data set are the rows of its epochs, each part from where the one before it ends.

    Args:
        task: where they come from.
        config: for the seed.
        part: number of the step, or of the steps that share a pool.
        size: how many examples a part is meant to take; it may take more, of the rows that follow.
        shift: added to the seed, so that other examples are drawn for another purpose.
    """
    seed = step_seed(config, part) + shift
    if not has_rows(task.source):
        yield from task.stream("train", seed)
        return
    for i in count():
        start = (part + i) * size
        yield from task.source.batch(
            task.name, start, start + size, config.seed + shift, seed + i * FAR
        )


def has_rows(source: Source) -> bool:
    """Whether examples are rows of a data set, at least some of them."""
    if isinstance(source, MixtureSource):
        return any(has_rows(task.source) for task in source.tasks)
    return isinstance(source, DatasetSource)


def fixed_batch(
    task: Task, vocabulary: Vocabulary, config: PretrainConfig, step: int
) -> FixedBatch:
    """The batch of one step, where all answers are padded to one length."""
    stream = draw_examples(task, config, step, config.batch_size)
    if not says_lengths(task):
        stream = (e for e in stream if fits(vocabulary, *tokenize(vocabulary.tokenizer, [e])[0]))
    tokens, lengths = encode(vocabulary, list(islice(stream, config.batch_size)))
    generator = torch.Generator().manual_seed(step_seed(config, step))
    masks = draw_masks(config.batch_size, vocabulary.answer_length, config.suffix_share, generator)
    return FixedBatch(tokens, lengths, masks)


@dataclass(frozen=True)
class BlockBatch:
    """Examples for a block-causal model, padded with EOS to the end of the rows.

    Attributes:
        tokens: [B, S], S a multiple of the block size.
        masks: bool [B, S], hidden positions: some of each block that holds a part of the answer.
    """

    tokens: Tensor
    masks: Tensor


def block_batch(
    task: Task, vocabulary: Vocabulary, config: PretrainConfig, step: int, size: int
) -> BlockBatch:
    """The batch of one step for a block-causal model: each block of `size` positions has a share of
    hidden positions of its own.

    An answer is padded with EOS to the end of its last block, as decoding denoises that block
    whole.
    """
    fixed = fixed_batch(task, vocabulary, config, step)
    ends = fixed.prompt_lengths + vocabulary.answer_length
    n, blocks = len(ends), -(-fixed.tokens.shape[1] // size)
    where = torch.arange(blocks * size)
    tokens = torch.full((n, len(where)), cast(int, vocabulary.tokenizer.eos_token_id))
    own = where[: fixed.tokens.shape[1]] < ends[:, None]
    tokens[:, : own.shape[1]][own] = fixed.tokens[own]
    generator = torch.Generator().manual_seed(step_seed(config, step))
    masks = draw_masks(n * blocks, size, config.suffix_share, generator).view(n, -1)
    answer = (where >= fixed.prompt_lengths[:, None]) & (
        where < ((ends + size - 1) // size * size)[:, None]
    )
    return BlockBatch(tokens, masks & answer)


def fits(vocabulary: Vocabulary, prompt: list[int], answer: list[int]) -> bool:
    """Whether an example is no longer than the vocabulary allows."""
    return len(prompt) <= vocabulary.prompt_length and len(answer) <= vocabulary.answer_length


def varied_batches(
    task: Task,
    vocabulary: Vocabulary,
    config: PretrainConfig,
    steps: range,
    buffer_lengths: tuple[int, int],
) -> Iterator[VariedBatch]:
    """The batches of these steps, each padded to a length of its own.

    Args:
        task: where the examples come from.
        vocabulary: the tokenizer, and the longest prompts and answers that are taken.
        config: batch size, share of suffix masks and seed.
        steps: numbers of the steps; each has the same batch in whatever range it is.
        buffer_lengths: the shortest and the longest buffer in tokens.

    Raises:
        UnmaskError: if hardly any example is short enough.
    """
    pool: list[list[tuple[list[int], list[int]]]] = []
    for step in steps:
        part, index = divmod(step, BATCHES_AT_ONCE)
        if not pool or index == 0:
            pool = draw_pool(task, vocabulary, config, part)
        yield varied_batch(pool[index], vocabulary.tokenizer, config, step, buffer_lengths)


def draw_pool(
    task: Task, vocabulary: Vocabulary, config: PretrainConfig, part: int
) -> list[list[tuple[list[int], list[int]]]]:
    """Tokens of prompts and answers for `BATCHES_AT_ONCE` batches of examples of like length, the
    batches in random order."""
    size, pairs, drawn = config.batch_size, [], 0
    stream = draw_examples(task, config, part, size * BATCHES_AT_ONCE)
    while len(pairs) < size * BATCHES_AT_ONCE:
        found = tokenize(vocabulary.tokenizer, list(islice(stream, size)))
        pairs += [pair for pair in found if fits(vocabulary, *pair)]
        drawn += size
        if drawn > TRIES * (size + len(pairs)):
            raise UnmaskError(
                f"fewer than one in {TRIES} examples of task {task.name} is as short as "
                f"{vocabulary.prompt_length} + {vocabulary.answer_length} tokens; allow longer "
                "buffers"
            )
    pairs = sorted(pairs[: size * BATCHES_AT_ONCE], key=lambda pair: len(pair[0]) + len(pair[1]))
    batches = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    random.Random(step_seed(config, part)).shuffle(batches)
    return batches


def varied_batch(
    pairs: list[tuple[list[int], list[int]]],
    tokenizer: PreTrainedTokenizerFast,
    config: PretrainConfig,
    step: int,
    buffer_lengths: tuple[int, int],
) -> VariedBatch:
    """Rows of one length, so that the buffers have on average the length drawn for the step."""
    low, high = buffer_lengths
    generator = torch.Generator().manual_seed(step_seed(config, step))
    # Cubed, because the cost of a step grows with the length of its rows: half of the buffers lie
    # in the lowest eighth of the range, a fifth of them in its upper half.
    buffer = low + (high - low) * torch.rand((), generator=generator).item() ** 3
    starts = torch.tensor([len(prompt) for prompt, _ in pairs])
    ends = starts + torch.tensor([len(answer) + 1 for _, answer in pairs])
    length = max(int(ends.max()), round(float(starts.float().mean()) + buffer))
    tokens = torch.full((len(pairs), length), cast(int, tokenizer.eos_token_id))
    for row, (prompt, answer) in zip(tokens, pairs, strict=True):
        row[: len(prompt) + len(answer)] = torch.tensor(prompt + answer)
    masks = draw_masks_within(starts, ends, length, config.suffix_share, generator)
    return VariedBatch(tokens, ends, masks)
