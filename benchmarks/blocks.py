"""Block-causal models: the engine, which forwards the current block alone, against forwarding the
whole canvas in every pass, and against the bare passes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import clock, interleaved, median, ratio
from benchmarks.models import random_llada, random_prompts
from unmask.decoding import DecodeOptions, Engine, Request
from unmask.models import Model
from unmask.policies import load_policy

PROMPT, LENGTH, BLOCK, A_PASS = 1024, 256, 32, 8


@dataclass
class WarmCache:
    """Keys and values [B, heads, S, d] of every layer at fixed places, of which a pass renews some.

    Attributes:
        width: S.
        begin, end: the positions that the next pass forwards.
        layers: keys and values.
    """

    width: int
    begin: int = 0
    end: int = 0
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        if layer == len(self.layers):
            shape = (*keys.shape[:2], self.width, keys.shape[3])
            self.layers.append((keys.new_zeros(shape), keys.new_zeros(shape)))
        stored = self.layers[layer]
        for old, new in zip(stored, (keys, values), strict=True):
            old[:, :, self.begin : self.end] = new
        return stored[0][:, :, : self.end], stored[1][:, :, : self.end]


@torch.inference_mode()
def bare_passes(model: Model, prompts: list[list[int]]) -> dict[str, float]:
    """Seconds of the passes behind the first one of a block schedule with `A_PASS` tokens a pass,
    on a warm cache: the backbone and one product of the head with the positions that are masked."""
    rows = len(prompts)
    cache = WarmCache(PROMPT + LENGTH)
    canvas = torch.full((rows, PROMPT + LENGTH), model.mask_id)
    canvas[:, :PROMPT] = torch.tensor(prompts)
    times = []
    for start in range(PROMPT, PROMPT + LENGTH, BLOCK):
        for turn in range(BLOCK // A_PASS):
            first = start - BLOCK if turn == 0 and start > PROMPT else start
            cache.begin, cache.end = first, start + BLOCK
            block = torch.arange(cache.end) // BLOCK
            mask = (block[first:, None] >= block)[None, None].expand(rows, -1, -1, -1)
            where = torch.arange(first, cache.end).expand(rows, -1)
            began = clock()
            hidden = model.network.base_model(
                input_ids=canvas[:, first : cache.end],
                attention_mask=mask,
                position_ids=where,
                use_cache=False,
                **{model.cache_keyword: cache},
            ).last_hidden_state
            model.to_logits(hidden[:, -BLOCK + turn * A_PASS :].flatten(0, 1))
            times.append(clock() - began)
    return {"total": sum(times[1:])}


def engine_passes(model: Model, prompts: list[list[int]]) -> dict[str, float]:
    """Seconds of the engine behind its first step, which holds the prefill; and of all."""
    options = DecodeOptions(max_new_tokens=LENGTH, eos="never")
    policy = load_policy(f"confidence:{A_PASS}")
    engine = Engine(model, len(prompts))
    began = clock()
    for prompt in prompts:
        engine.submit(Request(tuple(prompt), policy, options))
    engine.step()
    warm = clock()
    while engine.step() is not None:
        pass
    end = clock()
    return {"total": end - warm, "all": end - began}


@torch.inference_mode()
def whole_canvases(model: Model, prompts: list[list[int]]) -> dict[str, float]:
    """Seconds a token of the same decode, if it forwards the whole canvas in every pass, with the
    head on the positions of the block; of the first two blocks, as every pass costs the same."""
    canvas = torch.full((len(prompts), PROMPT + LENGTH), model.mask_id)
    canvas[:, :PROMPT] = torch.tensor(prompts)
    inside, began = torch.ones_like(canvas), clock()
    for start in (PROMPT, PROMPT + BLOCK):
        where = torch.arange(start, start + BLOCK).expand(len(prompts), -1)
        for _ in range(BLOCK // A_PASS):
            logits = model.logits_at(canvas, inside, where).float()
            logits[..., [*model.never_ids, *model.eos_ids]] = -torch.inf
            p, best = logits.softmax(-1).max(-1)
            masked = canvas[:, start : start + BLOCK] == model.mask_id
            chosen = p.masked_fill(~masked, -1).topk(A_PASS).indices
            canvas.scatter_(1, start + chosen, best.gather(1, chosen))
    return {"total": (clock() - began) / (2 * BLOCK * len(prompts))}


def blocks(batches: tuple[int, ...] = (1, 8), repeats: int = 3) -> list[dict[str, Any]]:
    """Workload (b) with a prompt of 1,024, 256 new tokens and blocks of 32."""
    model, results = replace(random_llada(), attention_block=BLOCK), []
    for rows in batches:
        prompts = random_prompts(rows, PROMPT, PROMPT)
        contenders = {
            "ideal": lambda prompts=prompts: bare_passes(model, prompts),
            "ours": lambda prompts=prompts: engine_passes(model, prompts),
        }
        turns = {"ideal": repeats, "ours": repeats}
        if rows == 1:
            contenders["whole"] = lambda prompts=prompts: whole_canvases(model, prompts)
            turns["whole"] = 1
        times = interleaved(contenders, turns)
        tokens = rows * LENGTH
        found: dict[str, Any] = {
            "workload": f"b, prompt {PROMPT}, L {LENGTH}, BL {BLOCK}, {rows} rows",
            "ours / ideal": ratio(times["ours"], times["ideal"]),
            "ms a token": {
                "ours, with the prompt": median([1e3 * t["all"] / tokens for t in times["ours"]])
            },
        }
        if "whole" in times:
            whole = [1e3 * t["total"] for t in times["whole"]]
            found["ms a token"]["whole canvas"] = median(whole)
            mine = found["ms a token"]["ours, with the prompt"]["median"]
            found["whole / ours"] = min(whole) / mine
        results.append(found)
    return results
