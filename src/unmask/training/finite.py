"""Numbers that are not finite end a run with a sentence that names what, which prompt and round.

One such number in a reward or a likelihood makes every weight NaN for the rest of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten

import torch
from torch import Tensor, nn

from unmask.errors import UnmaskError


def check_finite(
    what: str,
    values: Tensor,
    prompts: Sequence[str],
    moment: str,
    number: Tensor | None = None,
) -> None:
    """Refuses values that are not finite.

    Args:
        what: what they are, in words: "the reward".
        values: float [N].
        prompts: the prompt of each value, N.
        moment: when, in words: "round 7".
        number: int64 [N], which of `prompts` each value belongs to, where they are not N.

    Raises:
        UnmaskError: naming the first one's prompt.
    """
    bad = (~torch.isfinite(values)).nonzero()[:, 0]
    if len(bad):
        row = int(bad[0])
        prompt = prompts[row if number is None else int(number[row])]
        prompt = shorten(prompt, 80, placeholder=" …")
        raise UnmaskError(
            f"{what} is {float(values[row])} for the prompt {prompt!r} in {moment}; finite numbers "
            "are needed, so nothing was learned or saved from it"
        )


def check_weights(network: nn.Module, moment: str) -> None:
    """Refuses a network with weights that are not finite.

    Raises:
        UnmaskError: naming the first such parameter.
    """
    names, parameters = zip(*network.named_parameters(), strict=True)
    finite = torch.stack([torch.isfinite(p).all() for p in parameters])
    if not bool(finite.all()):
        name = names[int((~finite).nonzero()[0, 0])]
        raise UnmaskError(
            f"the policy's weight {name} is not finite after the update of {moment}; give a lower "
            "learning rate (lr) or gradient norm (max_grad_norm); these weights were not saved"
        )
