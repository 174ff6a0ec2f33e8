"""`generate`: text, chats or tokens in, text and its cost out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from unmask.decoding.decode import Generation, Step, decode
from unmask.errors import UnmaskError
from unmask.models import Model
from unmask.policies import Policy, load_policy

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]


def generate(
    model: Model,
    prompts: Sequence[Prompt],
    policy: Policy | str | Path,
    *,
    max_new_tokens: int,
    block_length: int | None = None,
    temperature: float = 0.0,
    batch_size: int = 64,
    seed: int = 0,
    record: bool = False,
    watch: Callable[[Step], None] | None = None,
) -> Generation:
    """Answers prompts with a frozen model and an unmasking policy.

    Args:
        model: from `load_model`.
        prompts: each a string, a list of chat messages (`{"role": …, "content": …}`) or a list of token ids; of any lengths.
        policy: a policy, or a spec or directory for `load_policy`.
        max_new_tokens: L, the length of the generation buffer.
        block_length: BL, 1 to L; None is full diffusion.
        temperature: τ of the frozen model; 0 is greedy.
        batch_size: rows decoded side by side; changes the speed, never the result.
        seed: of everything random.
        record: keep every decision in `Generation.transitions`.
        watch: called with a `Step` after each step.

    Raises:
        UnmaskError: if there are no prompts, one cannot be read, or an argument is out of range.

    Example:
        >>> model = load_model("embedded/chain")
        >>> generate(model, ["7 a +5 b *3 ="], "threshold:0.9", max_new_tokens=48).text
    """
    if isinstance(prompts, str):
        raise UnmaskError("prompts is one string; give a list of prompts")
    loaded = policy if not isinstance(policy, str | Path) else load_policy(policy, device=model.device)
    return decode(
        model,
        [encode_prompt(model, prompt) for prompt in prompts],
        loaded,
        max_new_tokens=max_new_tokens,
        block_length=block_length,
        temperature=temperature,
        batch_size=batch_size,
        seed=seed,
        record=record,
        watch=watch,
    )


def encode_prompt(model: Model, prompt: Prompt) -> list[int]:
    """Token ids of one prompt.

    Raises:
        UnmaskError: if it is empty, of another type, or has a token the model does not know.
    """
    tokenizer = model.tokenizer
    ids: list[int]
    if isinstance(prompt, str):
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    elif isinstance(prompt, Sequence) and prompt and all(isinstance(part, Mapping) for part in prompt):
        text = tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    elif isinstance(prompt, Sequence) and all(isinstance(part, int) for part in prompt):
        ids = [int(part) for part in prompt]  # type: ignore[arg-type]
    else:
        raise UnmaskError(f"a prompt is {prompt!r}; give a string, a list of chat messages or a list of token ids")
    if not ids:
        raise UnmaskError(f"a prompt is empty ({prompt!r}); give at least one token")
    if wrong := [i for i in ids if not 0 <= i < len(tokenizer)]:
        raise UnmaskError(f"a prompt has the token id {wrong[0]}; this model's ids are 0 to {len(tokenizer) - 1}")
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        raise UnmaskError(f"the prompt {prompt!r} has words that this model's tokenizer does not know; use its vocabulary")
    return ids
