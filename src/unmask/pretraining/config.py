"""Settings of pre-training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unmask.errors import UnmaskError
from unmask.settings import check_settings

SMALLEST_VOCABULARY = 300
LARGEST_NUMBER = 999
MOST_STEPS = 5_000_000
MOST = {
    "steps": MOST_STEPS,
    "batch_size": 2**14,
    "width": 2**14,
    "layers": 512,
    "heads": 2**10,
    "save_every": 2**63 - 1,
    "vocabulary": 2**17,
}
LARGEST_BUFFER, MOST_LINES = 2**14, 2**16
HIGHEST = {
    "matrix_lr": 2**32,
    "other_lr": 2**32,
    "weight_decay": 2**32,
    "warmup": 2**32,
    "seed": 2**32,
    "number_waves": 2**32,
    "cooldown": 1,
    "suffix_share": 1,
}


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-train a small masked diffusion language model on a task's generated data."""

    out: Path = Path("runs/pretrain")
    """Directory for the model, its loss curve and the checkpoint to resume from."""
    task: str = "chain"
    """What to learn: chain, sudoku, word-problems, reasoning_gym:NAME, jsonl:FILE, or any other
    task whose answers a small model can learn to write."""
    data_dir: str | None = None
    """Directory with the files of data sets, for tasks that need them."""
    family: Literal["plain", "dream"] = "plain"
    """Checkpoint format: plain (Llama, no shift), or dream (Qwen2, the output at position i
    predicts token i + 1)."""
    attention_block: int | None = None
    """Make the model block-causal: a position sees its own block of so many positions, counted from
    the start of the prompt, and all blocks before it. None lets every position see every other."""
    steps: int = 12_000
    """Optimisation steps."""
    batch_size: int = 32
    """Sequences a step: many small steps teach these models more than few large ones."""
    width: int = 128
    """Hidden size."""
    layers: int = 4
    """Transformer blocks."""
    heads: int = 4
    """Attention heads."""
    matrix_lr: float = 5e-3
    """Peak learning rate of Muon, for the weight matrices."""
    other_lr: float = 3e-3
    """Peak learning rate of AdamW, for embeddings and norms."""
    weight_decay: float = 0.1
    """Weight decay of Muon."""
    warmup: int = 100
    """Steps of linear warm-up; after them the rate falls linearly to zero over the last `cooldown`
    share."""
    cooldown: float = 0.6
    """Share of the steps, at the end, over which the learning rate falls to zero."""
    suffix_share: float = 0.3
    """Share of the sequences whose mask is a suffix, as semi-autoregressive decoding meets them,
    instead of a random set."""
    seed: int = 0
    """Seed of weights, data and masks."""
    compile: bool = False
    """Compile the model (a minute more at the start, a fifth faster steps)."""
    save_every: int = 500
    """Steps between checkpoints."""
    resume: bool = False
    """Go on from the checkpoint in `out`, with the same settings but perhaps other `steps`,
    `cooldown` and `result_lines`."""
    until: int | None = None
    """Stop behind this step, before all `steps` are done, with a checkpoint to resume from."""
    device: str = "cpu"
    """Device to train on."""
    vocabulary: int = 1024
    """Size of the tokenizer that is learned from a sample, for tasks that list no words."""
    whole_numbers: int | None = None
    """Make every number up to this one token of the learned tokenizer, and words with the space
    before them; None makes each digit a token, and lets tokens reach across words."""
    number_waves: float = 0.0
    """How strongly the embeddings of whole numbers begin with waves of their value (periods 2 to
    200), which makes sums quick to learn; the standard deviation per wave, 0 for none."""
    buffer_lengths: tuple[int, int] | None = None
    """Pad the answers to random lengths from LOW to HIGH tokens, the shorter the more often, in
    batches of like length; None pads all to one length."""
    result_lines: int = 0
    """Lines of solutions that each step learns from besides, alone and with nothing hidden but the
    number behind the equals sign: arithmetic is learned sooner. Needs buffer_lengths."""

    def __post_init__(self) -> None:
        check_settings(self)
        for name, high in MOST.items():
            if not 1 <= getattr(self, name) <= high:
                raise UnmaskError(
                    f"{name} is {getattr(self, name)}; give at least 1, at most {high}"
                )
        for name, high in HIGHEST.items():
            value = getattr(self, name)
            if not 0 <= value <= high:
                raise UnmaskError(f"{name} is {value}; give 0 to {high}")
        if self.until is not None and self.until < 1:
            raise UnmaskError(f"until is {self.until}; give a step from 1 on, or nothing")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise UnmaskError(
                f"width {self.width} cannot be cut into {self.heads} heads of even size; change "
                "one of them"
            )
        self.check_tokens()
        self.check_blocks()

    def check_blocks(self) -> None:
        """Whether a block-causal model can be trained with the other settings.

        Raises:
            UnmaskError: if it cannot.
        """
        if self.attention_block is None:
            return
        if self.attention_block < 1:
            raise UnmaskError(f"attention_block is {self.attention_block}; give at least 1")
        if self.family != "plain" or self.buffer_lengths is not None:
            raise UnmaskError(
                "attention_block goes with family plain and answers of one length; leave out "
                "family and buffer_lengths, or attention_block"
            )

    def check_tokens(self) -> None:
        """Whether the settings of tokenizer and buffers go together.

        Raises:
            UnmaskError: if they do not.
        """
        if self.vocabulary < SMALLEST_VOCABULARY:
            raise UnmaskError(
                f"vocabulary is {self.vocabulary}; give at least {SMALLEST_VOCABULARY}, for the "
                "256 bytes and the special tokens"
            )
        if self.whole_numbers is not None and not 0 <= self.whole_numbers <= LARGEST_NUMBER:
            raise UnmaskError(
                f"whole_numbers is {self.whole_numbers}; give 0 to {LARGEST_NUMBER}, or nothing"
            )
        if self.number_waves and self.whole_numbers is None:
            raise UnmaskError(
                "number_waves are for numbers that are one token; set whole_numbers as well"
            )
        within = 0 <= self.result_lines <= MOST_LINES
        if self.result_lines and (self.buffer_lengths is None or not within):
            raise UnmaskError(
                f"result_lines is {self.result_lines}; give 0 to {MOST_LINES}, and set "
                "buffer_lengths as well"
            )
        if self.buffer_lengths is not None:
            low, high = self.buffer_lengths
            if not 1 <= low <= high <= LARGEST_BUFFER:
                raise UnmaskError(
                    f"buffer_lengths are {low} and {high}; give the shortest length, at least 1, "
                    f"and then the longest, at most {LARGEST_BUFFER}"
                )
