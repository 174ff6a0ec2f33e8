"""The decoding algorithm `Unmask` for SGLang: `--dllm-algorithm Unmask --dllm-algorithm-config
policy.yaml`. SGLang finds `register_algorithm` through the entry point `sglang.srt.plugins`.

Written for SGLang 0.5.23, and thin: SGLang's own class runs the model, keeps the keys and values
and calls `step` after every forward pass; `step` hands the logits to `unmask.decoding.reveal`. This
module imports little, since SGLang loads it in all its processes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

from unmask.errors import short_error
from unmask.extras import installed_version

if TYPE_CHECKING:
    from torch import Tensor

    from unmask.integrations.blocks import BlockDecoder

logger = logging.getLogger(__name__)

NAME = "Unmask"
WRITTEN_FOR = "0.5.23"
ALGORITHMS = "sglang.srt.dllm.algorithm"
OF_SGLANG = ("block_size",)  # what SGLang itself reads from the YAML file
# What these methods of SGLang's class are called with.
INTERFACE = {
    "step": ("forward_batch", "full_logits", "states"),
    "init_step_state": ("forward_batch",),
}


@dataclass
class BlockState:
    """What is kept for one request while its current block is decoded; SGLang carries it.

    Attributes:
        key: the request's random key.
        step: steps that the block has behind it.
    """

    key: int
    step: int = 0


def register_algorithm() -> None:
    """Adds `Unmask` to SGLang's decoding algorithms; SGLang calls it in each of its processes.

    A server that does not ask for `Unmask` must not fail because of it: where SGLang is absent or
    has another interface, one warning is logged and nothing is added.
    """
    try:
        algorithms = import_module(ALGORITHMS)
        base = import_module(f"{ALGORITHMS}.base").DllmAlgorithm
        check_interface(base)
        algorithms.algo_name_to_cls[NAME] = algorithm_class(base)
    # Importing SGLang's parts runs code of many packages, which may raise anything.
    except Exception as error:
        logger.warning(
            "unmask: --dllm-algorithm %s is not available, since SGLang %s differs from %s, which "
            "it was written for (%s); nothing else is affected",
            NAME,
            installed_version("sglang"),
            WRITTEN_FOR,
            short_error(error),
        )


def check_interface(base: Any) -> None:
    """Refuses a base class that calls its methods otherwise than `Unmask` expects.

    Raises:
        TypeError: if it does.
    """
    for name, expected in INTERFACE.items():
        method = getattr(base, name, None)
        if method is None:
            raise TypeError(f"DllmAlgorithm has no method {name}")
        found = tuple(signature(method).parameters)[1:]
        if found != expected:
            raise TypeError(f"DllmAlgorithm.{name} takes {', '.join(found)}")


def algorithm_class(base: Any) -> type:
    """The class `Unmask`, a subclass of SGLang's `DllmAlgorithm`, which can be imported only where
    SGLang is."""
    from unmask.integrations.blocks import named_key
    from unmask.transfer import to_device

    class Unmask(base):
        """Reveals what a policy of ours accepts.

        A block is reported as done by the forward pass after its last reveal, since that pass
        stores its final keys and values; so SGLang needs one pass a block more than our NFE.

        Raises:
            UnmaskError: if the settings in the YAML file cannot be used.
        """

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.decoder = load_decoder(config.algorithm_config or {})
            self.unnamed = 0  # rows that had no name so far

        def init_step_state(self, forward_batch: Any) -> list[Any]:
            """A fresh state for each row; called with the whole batch when any row is new."""
            names = getattr(forward_batch, "rids", None)
            if names is None:
                names = [f"row {self.unnamed + i}" for i in range(forward_batch.batch_size)]
                self.unnamed += len(names)
            seed = self.decoder.settings.seed
            return [BlockState(named_key(seed, name)) for name in names]

        def step(self, forward_batch: Any, full_logits: Tensor, states: list[Any]) -> list[bool]:
            """One step of all blocks: writes the revealed tokens into the batch, and says which
            blocks were whole before."""
            shape = (len(states), self.block_size)
            tokens = forward_batch.input_ids.view(shape)
            masked = tokens == self.mask_id
            prompt = getattr(forward_batch, "dllm_prompt_mask", None)
            if prompt is not None:  # prompts may hold the mask token
                masked = masked & ~prompt.view(shape)
            done = (~masked.any(1)).tolist()  # the one time that the host waits
            if all(done):  # as all blocks of a prompt are
                return done
            revealed = self.decoder.step(
                tokens,
                full_logits.view(*shape, -1),
                masked,
                to_device([state.step for state in states], tokens.device),
                to_device([state.key for state in states], tokens.device),
                forward_batch.positions.view(shape)[:, 0].long() // self.block_size,
                self.mask_id,
            )
            forward_batch.input_ids.copy_(revealed.tokens.view(-1))  # graphs know this tensor
            for state, whole in zip(states, done, strict=True):
                state.step += not whole
            return done

    return Unmask


def load_decoder(values: Mapping[str, Any]) -> BlockDecoder:
    """The policy and the settings that SGLang read from its YAML file.

    Raises:
        UnmaskError: if they cannot be used.
    """
    from unmask.integrations.blocks import BlockDecoder, read_settings

    own = {name: value for name, value in values.items() if name not in OF_SGLANG}
    return BlockDecoder.load(read_settings(own, "the file of --dllm-algorithm-config"))
