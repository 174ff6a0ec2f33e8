"""The frozen model: what it proposes for the masked positions, and how sure it is."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class Uniform(Protocol):
    """What `propose` draws tokens with: `unmask.rng.RowGenerator`."""

    def uniform(self, counter: Any, n: int, stream: int) -> Tensor: ...


@dataclass(frozen=True)
class Proposal:
    """One forward pass' answer for n positions of each row.

    Attributes:
        tokens: int64 [B, n], the token each position would get (the most probable one at temperature 0).
        confidence: fp32 [B, n, k], the k largest probabilities, descending; the first is the confidence c of paper §2.
        features: fp32 [B, n] each: `entropy` in nats, `margin` (top-1 minus top-2 probability), if they were asked for.
    """

    tokens: Int[Tensor, "B n"]
    confidence: Float[Tensor, "B n k"]
    features: dict[str, Tensor] = field(default_factory=dict)


FEATURES = frozenset({"entropy", "margin"})


@dataclass(frozen=True)
class Model:
    """A frozen masked diffusion language model.

    Attributes:
        network: a `transformers` model with bidirectional attention and a language-model head.
        tokenizer: its tokenizer.
        mask_id: the token that stands for "not revealed yet".
        eos_ids: tokens that end a text; the first one fills up short answers.
        never_ids: tokens that are never proposed: the mask and other ids that no text contains.
        name: what it was loaded as.
        max_new_tokens: the length L of the answers it was trained on, if it says so.
    """

    network: Any
    tokenizer: Any
    mask_id: int
    eos_ids: tuple[int, ...]
    never_ids: tuple[int, ...]
    name: str | Path
    max_new_tokens: int | None = None

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    @torch.inference_mode()
    def logits(self, tokens: Int[Tensor, "B S"], attention_mask: Bool[Tensor, "B S"] | Int[Tensor, "B S"]) -> Float[Tensor, "B S V"]:
        """Logits at every position, fp32, as the network gives them (the mask token still in); for checks, not for decoding.

        Args:
            tokens: int64 [B, S]; padding, if any, on the right.
            attention_mask: [B, S], 1 or True where there is a token.
        """
        return self.network(input_ids=tokens, attention_mask=attention_mask.long(), use_cache=False).logits.float()

    @torch.inference_mode()
    def propose(
        self,
        tokens: Int[Tensor, "B S"],
        attention_mask: Bool[Tensor, "B S"],
        positions: Int[Tensor, "B n"],
        *,
        needs: Set[str] = frozenset(),
        k: int = 1,
        temperature: float = 0.0,
        generator: Uniform | None = None,
    ) -> Proposal:
        """One forward pass; the head runs on `positions` only, and probabilities are fp32.

        Args:
            tokens: int64 [B, S], padding on the right.
            attention_mask: bool [B, S].
            positions: int64 [B, n], which positions to propose for.
            needs: features to compute beside the confidence, of `FEATURES`.
            k: how many of the largest probabilities to return.
            temperature: τ; 0 proposes the most probable token, else a token is drawn from softmax(logits / τ).
            generator: draws for τ > 0, one key a row. The noise belongs to (row, position), not to the step: a position is revealed
                once, and until then its draw influences nothing, so this samples exactly.

        Returns:
            A `Proposal` for the n positions; confidence and features are those of the model at τ = 1.
        """
        hidden = self.network.base_model(input_ids=tokens, attention_mask=attention_mask.long(), use_cache=False).last_hidden_state
        hidden = hidden.gather(1, positions[:, :, None].expand(-1, -1, hidden.shape[-1]))
        logits = self.network.get_output_embeddings()(hidden).float()
        logits[..., list(self.never_ids)] = -torch.inf
        log_z = logits.logsumexp(-1, keepdim=True)
        best, tokens_out = logits.topk(max(k, 2 if "margin" in needs else 1), dim=-1)
        probabilities = (best - log_z).exp()
        features = {}
        if "margin" in needs:
            features["margin"] = probabilities[..., 0] - probabilities[..., 1]
        if "entropy" in needs:
            log_p = logits - log_z
            features["entropy"] = -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)
        tokens_out = tokens_out[..., 0]
        if temperature > 0:
            assert generator is not None, "temperature > 0 draws tokens and needs a generator"
            n, vocabulary = logits.shape[1:]
            noise = generator.uniform(0, n * vocabulary, 1).view(-1, n, vocabulary)
            gumbel = -(-(noise + 2.0**-25).log()).log()
            tokens_out = (logits / temperature + gumbel).argmax(-1)
        return Proposal(tokens_out, probabilities[..., :k], features)
