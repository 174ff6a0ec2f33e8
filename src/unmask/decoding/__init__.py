"""Decoding: the state, the loop, and the public `generate`."""

from unmask.decoding.caching import check_cache
from unmask.decoding.decode import (
    Generation,
    Step,
    Transitions,
    check_arguments,
    decode,
    decode_steps,
    finish,
)
from unmask.decoding.generate import Prompt, encode_prompt, generate, stream

__all__ = [
    "Generation",
    "Prompt",
    "Step",
    "Transitions",
    "check_arguments",
    "check_cache",
    "decode",
    "decode_steps",
    "encode_prompt",
    "finish",
    "generate",
    "stream",
]
