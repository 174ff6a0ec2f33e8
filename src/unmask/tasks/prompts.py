"""What a task asks of a model: its prompts as tokens, and the length of its answers."""

from __future__ import annotations

from unmask.decoding import encode_prompt
from unmask.decoding.prompts import refuses_system
from unmask.models import Model
from unmask.tasks.base import Task
from unmask.tasks.examples import Example


def prompt_tokens(model: Model, example: Example) -> list[int]:
    """What the decoder is given for an example: the prompt, in the model's chat template if it is
    of a chat, with the answer's prefill behind it.

    Where the template knows no system messages, the system message stands at the beginning of the
    user's. Where the model has no chat template (a base model), both are plain text.

    Raises:
        UnmaskError: if the prompt has a token the model does not know.
    """
    prefill = encode_prompt(model, example.prefill) if example.prefill else []
    together = f"{example.system}\n\n{example.prompt}" if example.system else example.prompt
    if example.system is None or model.tokenizer.chat_template is None:
        return encode_prompt(model, together) + prefill
    messages = [{"role": "user", "content": together}]
    if example.system and not refuses_system(model):
        messages = [
            {"role": "system", "content": example.system},
            {"role": "user", "content": example.prompt},
        ]
    return encode_prompt(model, messages) + prefill


def answer_length(model: Model, task: Task, given: int | None = None) -> int:
    """L: as given, else the task's own, else what the model was trained on, else 256."""
    lengths = (given, task.max_new_tokens, model.max_new_tokens, 256)
    return next(length for length in lengths if length is not None)
