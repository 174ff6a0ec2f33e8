"""What engines need around them in tests: a tiny block-causal network, stand-ins for the modules of
SGLang that need a GPU, and the part of its scheduler that hands blocks to an algorithm."""

import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.reference.blocks import seen

VOCABULARY, MASK, BLOCK = 40, 3, 4


def block_network(seed=0):
    """A random Qwen3, which is SDAR but for the attention mask."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=False,
    )
    network = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():  # wide enough that confidences differ
        for weight in network.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.5)
    return network


def block_logits(network, block=BLOCK):
    """From tokens to the logits [positions, V] of one forward pass, every block seeing itself and
    what is before it."""

    @torch.no_grad()
    def logits(tokens):
        mask = seen(len(tokens), block)[None, None]
        return network(torch.tensor([tokens]), attention_mask=mask).logits[0].float()

    return logits


STANDINS = {
    "sglang.srt.layers.logits_processor": {"LogitsProcessorOutput": object},
    "sglang.srt.model_executor.forward_batch_info": {"ForwardBatch": object},
    "sglang.srt.model_executor.model_runner": {"ModelRunner": object},
    "sglang.srt.server_args": {"ServerArgs": object},
    "sglang.srt.configs.model_config": {"ModelConfig": object},
    "sglang.srt.arg_groups.overrides": {"resolving_view": None},
    "sglang.srt.utils": {"is_npu": lambda: False},
}


@contextmanager
def modules_without_sglang():
    """Nothing of SGLang is imported inside, and nothing that is imported inside stays."""

    def ours():
        return [name for name in sys.modules if name.partition(".")[0] == "sglang"]

    before = {name: sys.modules.pop(name) for name in ours()}
    try:
        yield
    finally:
        for name in ours():
            del sys.modules[name]
        sys.modules.update(before)


@contextmanager
def modules_of_sglang(directory):
    """The decoding algorithms in an unpacked wheel can be imported without the rest of SGLang."""
    with modules_without_sglang():
        package = ModuleType("sglang")
        package.__path__ = [str(directory / "sglang")]
        sys.modules["sglang"] = package
        for name, items in STANDINS.items():
            sys.modules[name] = ModuleType(name)
            for item, value in items.items():
                setattr(sys.modules[name], item, value)
        yield


class Runner:
    """Stands for SGLang's model runner: its `forward` gives the logits of each row's block, behind
    what the row has stored. It counts the forward passes of each row."""

    def __init__(self, logits):
        self.logits, self.forwards = logits, {}

    def forward(self, batch, pp_proxy_tensors=None):
        blocks = batch.input_ids.view(batch.batch_size, -1)
        parts = []
        for row, block in zip(batch.rows, blocks.tolist(), strict=True):
            self.forwards[row.name] = self.forwards.get(row.name, 0) + 1
            parts.append(self.logits([*row.stored, *block])[len(row.stored) :])
        output = SimpleNamespace(full_logits=torch.cat(parts))
        return SimpleNamespace(logits_output=output, can_run_graph=False)


@dataclass
class Row:
    """A request as SGLang's scheduler keeps it."""

    name: str
    prompt: list
    length: int
    output: list = field(default_factory=list)
    stored: list = field(default_factory=list)  # finished blocks
    incomplete: list | None = None
    state: object = None
    fresh: object = None  # makes the state with which each block begins; None leaves it to SGLang

    def block(self, size, mask_id):
        filled = [*self.prompt, *self.output, *[mask_id] * size]
        if self.incomplete is None and self.fresh is not None:
            self.state = self.fresh()
        return self.incomplete or filled[len(self.stored) : len(self.stored) + size]

    def finish_block(self, tokens):
        self.output += tokens[max(0, len(self.prompt) - len(self.stored)) :]
        self.stored, self.incomplete, self.state = [*self.stored, *tokens], None, None


def batch_of(rows, size, mask_id):
    """What SGLang hands to an algorithm for a block of each row."""
    blocks = [row.block(size, mask_id) for row in rows]
    starts = torch.tensor([len(row.stored) for row in rows], dtype=torch.int32)
    positions = starts[:, None] + torch.arange(size, dtype=torch.int32)
    committed = torch.tensor([len(row.prompt) + len(row.output) for row in rows])
    literal = any(mask_id in [*row.prompt, *row.output] for row in rows)
    return SimpleNamespace(
        rows=rows,
        rids=[row.name for row in rows],
        batch_size=len(rows),
        input_ids=torch.tensor(blocks).flatten(),
        positions=positions.flatten(),
        dllm_prompt_mask=positions < committed[:, None] if literal else None,
    )


def serve(algorithm, logits, prompts, length, most, ends=(), fresh=None):
    """Answers prompts as SGLang does, `most` at a time; a row ends with the block that holds a
    token of `ends`.

    Returns the generated tokens of each, and how many forward passes each took part in.
    """
    runner, size, mask_id = Runner(logits), algorithm.block_size, algorithm.mask_id
    rows = [Row(f"request {i}", list(prompt), length) for i, prompt in enumerate(prompts)]
    for row, make in zip(rows, fresh or [None] * len(rows), strict=True):
        row.fresh = make

    def goes_on(row):
        return len(row.output) < length and not set(row.output) & set(ends)

    while waiting := [row for row in rows if goes_on(row)]:
        batch = batch_of(waiting[:most], size, mask_id)
        ids, blocks = batch.input_ids, [row.block(size, mask_id) for row in batch.rows]
        states = [row.state for row in batch.rows] if algorithm.fdfo else None
        _, tokens, accepted, states, _ = algorithm.run(runner, batch, states)
        assert batch.input_ids is ids  # CUDA graphs read this very tensor
        for i, row in enumerate(batch.rows):
            if not algorithm.fdfo:  # what is behind each prompt; nothing where no block had masks
                new = tokens[i].tolist() if tokens else []
                row.finish_block([*blocks[i][: size - len(new)], *new])
            elif accepted[i]:
                row.finish_block(tokens[i])
            else:
                row.incomplete, row.state = tokens[i], states[i]
    return [row.output[:length] for row in rows], [runner.forwards[row.name] for row in rows]
