"""`generate`: text, chats or tokens in, text and its cost out."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from unmask.decoding.loop import Generation, Step, decode_steps, finish
from unmask.errors import UnmaskError
from unmask.models import Model
from unmask.policies import Policy, load_policy

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]


def generate(
    model: Model,
    prompts: Sequence[Prompt],
    policy: Policy | str | Path,
    *,
    max_new_tokens: int | None = None,
    block_length: int | None = None,
    temperature: float = 0.0,
    batch_size: int = 64,
    seed: int = 0,
    cfg_scale: float = 0.0,
    logits_eos_inf: bool = False,
    confidence_eos_eot_inf: bool = False,
    stop_at_eos: bool = False,
    infill: bool = False,
    record: bool = False,
    cache: str | None = None,
    cache_refresh: int | None = None,
) -> Generation:
    """Answers prompts with a frozen model and an unmasking policy.

    Args:
        model: from `load_model`.
        prompts: each a string, a list of chat messages (`{"role": …, "content": …}`) or a list of
            token ids; of any lengths.
        policy: a policy, or a spec or directory for `load_policy`.
        max_new_tokens: L, the length of the generation buffer.
        block_length: BL, 1 to L; None is full diffusion.
        temperature: τ of the frozen model; 0 is greedy.
        batch_size: rows decoded side by side; changes the speed, never the result.
        seed: of everything random.
        cfg_scale: w of classifier-free guidance, l_u + (w + 1)·(l − l_u) with l_u from a canvas
            whose prompt is masked (LLaDA's name); 0 is none. A guided step costs two forward passes
            of the model and counts as one NFE.
        logits_eos_inf: never propose an end of text or turn (LLaDA's name).
        confidence_eos_eot_inf: propose ends with confidence 0, so that policies that go by
            confidence reveal them last (LLaDA's name).
        stop_at_eos: finish a row once an end is revealed and everything before it is.
        infill: the prompts hold mask tokens, and only those are filled; `max_new_tokens` is not
            used. Rows of `tokens` are the filled positions in order, padded behind with the
            end-of-text token where other prompts have more; `text` is the whole text.
        record: keep every decision in `Generation.transitions`.
        cache: "prefix" or "dual" caches keys and values within a block (Fast-dLLM): faster, and an
            approximation. None is exact.
        cache_refresh: with `cache`, forward a row whole again after so many steps in a block; 1 is
            exact.

    Raises:
        UnmaskError: if there are no prompts, one cannot be read, or an argument is out of range.

    Example:
        >>> model = load_model("embedded/chain")
        >>> generate(model, ["7 a +5 b *3 ="], "threshold:0.9", max_new_tokens=48).text
    """
    return finish(
        stream(
            model,
            prompts,
            policy,
            max_new_tokens=max_new_tokens,
            block_length=block_length,
            temperature=temperature,
            batch_size=batch_size,
            seed=seed,
            cfg_scale=cfg_scale,
            logits_eos_inf=logits_eos_inf,
            confidence_eos_eot_inf=confidence_eos_eot_inf,
            stop_at_eos=stop_at_eos,
            infill=infill,
            record=record,
            cache=cache,
            cache_refresh=cache_refresh,
        )
    )


def stream(
    model: Model,
    prompts: Sequence[Prompt],
    policy: Policy | str | Path,
    *,
    max_new_tokens: int | None = None,
    block_length: int | None = None,
    temperature: float = 0.0,
    batch_size: int = 64,
    seed: int = 0,
    cfg_scale: float = 0.0,
    logits_eos_inf: bool = False,
    confidence_eos_eot_inf: bool = False,
    stop_at_eos: bool = False,
    infill: bool = False,
    record: bool = False,
    cache: str | None = None,
    cache_refresh: int | None = None,
) -> Generator[Step, None, Generation]:
    """`generate`, step by step: yields a `Step` after each, and may be closed at any time. Takes
    the arguments of `generate`.

    Returns:
        A generator of steps, whose own return value is the `Generation` (`unmask.decoding.finish`
        runs it to its end and gives that).

    Raises:
        UnmaskError: as `generate`.

    Example:
        >>> for step in stream(model, ["7 a +5 b *3 ="], "threshold:0.9", max_new_tokens=48):
        ...     print(model.tokenizer.decode(step.tokens[0]))
    """
    if isinstance(prompts, str):
        raise UnmaskError("prompts is one string; give a list of prompts")
    if logits_eos_inf and confidence_eos_eot_inf:
        raise UnmaskError(
            "logits_eos_inf and confidence_eos_eot_inf were both given; an end that is never "
            "proposed cannot come last"
        )
    if not infill and max_new_tokens is None:
        raise UnmaskError(
            "max_new_tokens is missing; give the length of the answers, or infill=True for prompts "
            "that hold masks"
        )
    loaded = (
        policy if not isinstance(policy, str | Path) else load_policy(policy, device=model.device)
    )
    ids = [encode_prompt(model, prompt, infill=infill) for prompt in prompts]
    holes = [[i for i, token in enumerate(row) if token == model.mask_id] for row in ids]
    if infill and not all(holes):
        raise UnmaskError(
            f"the prompt {prompts[holes.index([])]!r} holds no mask token ({mask_text(model)}); "
            "infilling needs one in each prompt"
        )
    # Prompts with equally many holes are decoded together, so that no row's L depends on its
    # batch-mates.
    lengths = (
        sorted({len(row) for row in holes})
        if infill or max_new_tokens is None
        else [max_new_tokens]
    )
    if record and len(lengths) > 1:
        raise UnmaskError(
            "infilling with record=True needs equally many masks in every prompt; call it for each "
            "number of masks apart"
        )

    def steps() -> Generator[Step, None, Generation]:
        parts, groups = [], []
        for length in lengths:
            rows = [row for row, places in enumerate(holes) if not infill or len(places) == length]
            inner = decode_steps(
                model,
                [ids[row] for row in rows],
                loaded,
                max_new_tokens=length,
                block_length=min(block_length, length)
                if infill and block_length is not None
                else block_length,
                temperature=temperature,
                batch_size=batch_size,
                seed=seed,
                cfg_scale=cfg_scale,
                eos="never" if logits_eos_inf else "last" if confidence_eos_eot_inf else "free",
                stop_at_eos=stop_at_eos,
                holes=[holes[row] for row in rows] if infill else None,
                record=record,
                cache=cache,
                cache_refresh=cache_refresh,
            )
            of_all = torch.tensor(rows, device=model.device)
            parts.append(
                (yield from renumbered(inner, of_all)) if len(lengths) > 1 else (yield from inner)
            )
            groups.append(rows)
        return merge(parts, groups, model.eos_ids[0]) if len(parts) > 1 else parts[0]

    return steps()


def renumbered(
    steps: Generator[Step, None, Generation], rows: Tensor
) -> Generator[Step, None, Generation]:
    """The same steps, with `rows` of a group as rows of the whole."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        yield replace(step, rows=rows[step.rows])


def merge(parts: Sequence[Generation], groups: Sequence[Sequence[int]], fill: int) -> Generation:
    """Generations of groups of rows as one, in the order of the rows; buffers are padded to the
    longest."""
    order = torch.tensor([row for rows in groups for row in rows]).argsort()
    longest = max(part.tokens.shape[1] for part in parts)

    def padded(name: str, value: int) -> Tensor:
        tensors = [getattr(part, name) for part in parts]
        return torch.cat(
            [pad(tensor, (0, longest - tensor.shape[1]), value=value) for tensor in tensors]
        )[order]

    texts = [text for part in parts for text in part.text]
    return Generation(
        tokens=padded("tokens", fill),
        text=[texts[i] for i in order.tolist()],
        nfe=torch.cat([part.nfe for part in parts])[order],
        reveal_step=padded("reveal_step", -1),
        answer_tokens=torch.cat([part.answer_tokens for part in parts])[order],
        model_calls=sum(part.model_calls for part in parts),
        rows_forwarded=sum(part.rows_forwarded for part in parts),
        positions_forwarded=sum(part.positions_forwarded for part in parts),
        padding_forwarded=sum(part.padding_forwarded for part in parts),
    )


def mask_text(model: Model) -> str:
    """How the mask token is written in a prompt."""
    return str(model.tokenizer.convert_ids_to_tokens(model.mask_id))


def encode_prompt(model: Model, prompt: Prompt, *, infill: bool = False) -> list[int]:
    """Token ids of one prompt; with `infill` it may hold mask tokens.

    Raises:
        UnmaskError: if it is empty, of another type, or has a token the model does not know.
    """
    tokenizer = model.tokenizer
    ids: list[int]
    if isinstance(prompt, str):
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    elif (
        isinstance(prompt, Sequence)
        and prompt
        and all(isinstance(part, Mapping) for part in prompt)
    ):
        text = tokenizer.apply_chat_template(
            list(prompt), tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    elif isinstance(prompt, Sequence) and all(isinstance(part, int) for part in prompt):
        ids = [int(part) for part in prompt]  # type: ignore[arg-type]
    else:
        raise UnmaskError(
            f"a prompt is {prompt!r}; give a string, a list of chat messages or a list of token ids"
        )
    if not ids:
        raise UnmaskError(f"a prompt is empty ({prompt!r}); give at least one token")
    last = max(len(tokenizer) - 1, model.mask_id)
    if wrong := [i for i in ids if not 0 <= i <= last]:
        raise UnmaskError(f"a prompt has the token id {wrong[0]}; this model's ids are 0 to {last}")
    if not infill and model.mask_id in ids:
        raise UnmaskError(
            f"the prompt {prompt!r} holds the mask token {mask_text(model)}; say infill=True to "
            "have it filled"
        )
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        raise UnmaskError(
            f"the prompt {prompt!r} has words that this model's tokenizer does not know; use its "
            "vocabulary"
        )
    return ids
