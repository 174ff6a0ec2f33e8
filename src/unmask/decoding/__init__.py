"""Decoding: the state, the loop, and the public `generate`."""

from unmask.decoding.decode import Generation, Step, Transitions, check_arguments, decode
from unmask.decoding.generate import Prompt, encode_prompt, generate

__all__ = ["Generation", "Prompt", "Step", "Transitions", "check_arguments", "decode", "encode_prompt", "generate"]
