"""A policy through SGLang's own class, against `unmask.generate`, on the prompts of a task:

    python -m tests.integrations.compare_sglang --model M --policy P --task chain --prompts 1000

prints accuracy and forward passes of both, and how many prompts differ. The model runs here on the
CPU, by whole forward passes; only the class that asks the policy is SGLang's.
"""

import importlib
from dataclasses import dataclass
from functools import partial

import torch
import tyro

from tests.integrations.engines import modules_of_sglang, serve
from tests.integrations.wheels import sglang_wheel
from unmask import generate, load_model, load_task
from unmask.decoding import encode_prompt
from unmask.decoding.generation import answer_of, buffer_tokens
from unmask.integrations import sglang as plugin
from unmask.rng import row_keys


@dataclass(frozen=True)
class Config:
    """Compare a policy in SGLang's class with the same policy here."""

    model: str
    policy: str
    task: str = "chain"
    prompts: int = 1000
    max_new_tokens: int | None = None
    batch_size: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Comparison:
    """Accuracies in percent and mean forward passes, here and there, and prompts that differ."""

    accuracy: tuple[float, float]
    passes: tuple[float, float]
    differ: int


def passes_of_blocks(prompt, tokens, size):
    """SGLang's passes that are not ours: one for each block, those of the prompt included."""
    return -(-(len(prompt) + len(tokens)) // size)


def compare(config):
    model = load_model(config.model, dtype="float32")
    task, size = load_task(config.task), model.attention_block
    examples = task.examples("test", config.prompts)
    prompts = [list(encode_prompt(model, example.prompt)) for example in examples]
    length = config.max_new_tokens or model.max_new_tokens
    here = generate(model, prompts, config.policy, max_new_tokens=length, seed=config.seed)
    values = {"policy": config.policy, "never_ids": list(model.never_ids)}
    fresh = [partial(plugin.BlockState, key) for key in row_keys(prompts, config.seed)]

    def logits(tokens):
        return model.logits(torch.tensor([tokens]), torch.ones(1, len(tokens)).long())[0]

    with modules_of_sglang(sglang_wheel()):
        plugin.register_algorithm()
        algorithms = importlib.import_module("sglang.srt.dllm.algorithm")
        asked = algorithms.DllmConfig("Unmask", values, size, model.mask_id, 64, True)
        algorithm = algorithms.get_algorithm(asked)
        tokens, forwards = serve(
            algorithm, logits, prompts, length, config.batch_size, model.eos_ids, fresh
        )
    rows = zip(forwards, prompts, tokens, strict=True)
    nfe = [n - passes_of_blocks(prompt, row, size) for n, prompt, row in rows]
    answers = [buffer_tokens(model, answer_of(model, row)) for row in tokens]
    texts = [model.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
    scores = [task.score_all(found, examples) for found in (here.text, texts)]
    differ = sum(
        row != here.tokens[i, : len(row)].tolist() or n != here.nfe[i]
        for i, (row, n) in enumerate(zip(tokens, nfe, strict=True))
    )
    accuracy = [100 * sum(score) / len(examples) for score in scores]
    passes = [here.nfe.float().mean().item(), sum(nfe) / len(examples)]
    return Comparison(tuple(accuracy), tuple(passes), differ)


if __name__ == "__main__":
    found = compare(tyro.cli(Config))
    for name, i in (("unmask.generate", 0), ("SGLang's class", 1)):
        print(f"{name:<16} {found.accuracy[i]:.1f} %, {found.passes[i]:.2f} forward passes")
    print(f"prompts that differ: {found.differ}")
