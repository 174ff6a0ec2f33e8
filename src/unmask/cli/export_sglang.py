"""`unmask export-sglang`"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import tyro

from unmask.errors import UnmaskError

# The families that SGLang 0.5.23 serves with a decoding algorithm, and the mask token that it takes
# for all checkpoints of each.
MASKS = {"SDAR": 151669, "SDAR-MoE": 151669, "LLaDA2": 156895}


@dataclass(frozen=True)
class Config:
    """Write the file with which SGLang decodes with a policy, and print the command that serves
    it."""

    policy: tyro.conf.Positional[str]
    """Heuristic (threshold:0.9) or policy directory (DIR@temperature=0.5,beta=0.8)."""
    to: Path = Path("unmask.yaml")
    """File to write."""
    model: str | None = None
    """Directory or Hub repository of the SDAR or LLaDA2 model to serve. It says the block size and
    which tokens are never proposed; without it, only the mask token is not."""
    block_size: int | None = None
    """Block size; leave out for the model's own, or SGLang's (4 for SDAR, 32 for LLaDA2)."""
    alpha: float | None = None
    """α, for a policy that was trained for many; leave out for the policy's own."""
    nfe: float | None = None
    """Target of forward passes a prompt, instead of α."""
    beta: float | None = None
    """β of a learned policy; leave out for the policy's own."""
    tau_pi: float | None = None
    """τ_π of a learned policy; leave out for the policy's own."""
    temperature: float = 0.0
    """τ of the model; 0 is greedy."""
    top_p: float = 1.0
    """At τ > 0, draw among the most probable tokens that hold this share."""
    top_k: int = 0
    """At τ > 0, draw among this many tokens; 0 is all."""
    seed: int = 0
    """Seed of everything random."""


def run(config: Config) -> None:
    import yaml

    from unmask.decoding.options import check_whole
    from unmask.files import check_writable, write_text
    from unmask.integrations.blocks import BlockSettings, policy_of

    own = vars(config) | ({} if config.model is None else model_settings(config.model))
    if config.block_size is not None:
        check_whole("block_size", config.block_size, 1)
        own["block_size"] = config.block_size
    known = {field.name for field in fields(BlockSettings)} & set(own)
    settings = BlockSettings(**{name: own[name] for name in known})
    policy_of(settings)  # refuses what would stop the server
    check_writable(config.to)
    if not config.to.parent.is_dir():
        raise UnmaskError(f"directory {config.to.parent} does not exist; make it, or change --to")
    values: dict[str, Any] = {"policy": absolute_spec(config.policy)}
    if own["block_size"] is not None:
        values["block_size"] = own["block_size"]
    for name, value in asdict(settings).items():
        if name != "policy" and value != getattr(BlockSettings, name):
            values[name] = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    write_text(config.to, "# Written by `unmask export-sglang`.\n" + text)
    model = (config.model or "MODEL").removeprefix("hf:")
    file = str(config.to.resolve())
    options = ["--model-path", model, "--dllm-algorithm", "Unmask", "--dllm-algorithm-config", file]
    print(f"written to {config.to}; where SGLang and unmask are installed, serve it with")
    print(f"    {shlex.join(['python', '-m', 'sglang.launch_server', *options])}")


def model_settings(name: str) -> dict[str, Any]:
    """What a model says of its blocks, and which of its tokens are never proposed.

    Raises:
        UnmaskError: if its files cannot be read, or SGLang does not serve such a model.
    """
    from unmask.models.load import load_without_weights

    model = load_without_weights(name)
    if model.family not in MASKS:
        raise UnmaskError(
            f"{name} is a {model.family} model; SGLang serves {', '.join(MASKS)} with a decoding "
            "algorithm, so give one of those"
        )
    if model.mask_id != MASKS[model.family]:
        raise UnmaskError(
            f"the mask token of {name} is {model.mask_id}, and SGLang takes "
            f"{MASKS[model.family]} for every {model.family} model; it cannot serve this one"
        )
    count = model.largest_id + 1
    never = tuple(token for token in model.never_ids if token < count)
    beyond = {"vocabulary": count} if count < model.vocabulary else {}
    return {"block_size": model.attention_block, "never_ids": never, **beyond}


def absolute_spec(spec: str) -> str:
    """The spec of a policy, a local directory in it made absolute: the server may be started
    elsewhere."""
    from unmask.policies import HEURISTICS

    if spec.partition(":")[0].partition("@")[0] in HEURISTICS:
        return spec
    name, at, settings = spec.partition("@")
    path = Path(name).expanduser()
    return f"{path.resolve()}{at}{settings}" if path.is_dir() else spec
