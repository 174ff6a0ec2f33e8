"""What a task asks of a model: its prompts as tokens, and the length of its answers."""

from __future__ import annotations

from unmask.decoding import encode_prompt
from unmask.decoding.prompts import refuses_system
from unmask.errors import UnmaskError
from unmask.models import Model
from unmask.tasks.base import Task
from unmask.tasks.examples import Example


def prompt_tokens(model: Model, example: Example) -> list[int]:
    """What the decoder is given for an example: the prompt, in the model's chat template if it is
    of a chat, with the answer's prefill behind it.

    Where the template takes no message of the system, that is put before the user's.

    Raises:
        UnmaskError: if the prompt has a token the model does not know.
    """
    prefill = encode_prompt(model, example.prefill) if example.prefill else []
    if example.system is None:
        return encode_prompt(model, example.prompt) + prefill
    messages = [{"role": "user", "content": example.prompt}]
    if not example.system:
        return encode_prompt(model, messages) + prefill
    try:
        system = {"role": "system", "content": example.system}
        return encode_prompt(model, [system, *messages]) + prefill
    except UnmaskError:
        if not refuses_system(model):
            raise
    folded = {"role": "user", "content": f"{example.system}\n\n{example.prompt}"}
    return encode_prompt(model, [folded]) + prefill


def answer_length(model: Model, task: Task, given: int | None = None) -> int:
    """L: as given, else the task's own, else what the model was trained on, else 256."""
    lengths = (given, task.max_new_tokens, model.max_new_tokens, 256)
    return next(length for length in lengths if length is not None)
