"""The frozen model: what it proposes for the masked positions, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Set
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
        features: fp32 [B, n] each: `entropy` in nats, `margin` (top-1 minus top-2 probability), if they were asked for; and `hidden`
            [B, n, width], what the head reads, in the network's dtype.
    """

    tokens: Int[Tensor, "B n"]
    confidence: Float[Tensor, "B n k"]
    features: dict[str, Tensor] = field(default_factory=dict)


FEATURES = frozenset({"entropy", "margin", "hidden"})


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
        family: which kind of checkpoint it came from.
        shift: the network's output at position i predicts token i + 1 (Dream); `logits` and `propose` undo this.
        head: from hidden states to logits; None takes the network's output embeddings.
    """

    network: Any
    tokenizer: Any
    mask_id: int
    eos_ids: tuple[int, ...]
    never_ids: tuple[int, ...]
    name: str | Path
    max_new_tokens: int | None = None
    family: str = "plain"
    shift: bool = False
    head: Callable[[Tensor], Tensor] | None = None

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states that the head reads."""
        return self.network.config.hidden_size

    @property
    def pad_id(self) -> int:
        """A token for positions that attention never sees."""
        return self.eos_ids[0] if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    @property
    def max_positions(self) -> int | None:
        """The longest canvas that learned position embeddings allow; None for rotary positions, which go on."""
        config = self.network.config
        if config.model_type not in ("bert", "roberta"):
            return None
        return config.max_position_embeddings - (config.pad_token_id + 1 if config.model_type == "roberta" else 0)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    @torch.inference_mode()
    def logits(self, tokens: Int[Tensor, "B S"], attention_mask: Bool[Tensor, "B S"] | Int[Tensor, "B S"]) -> Float[Tensor, "B S V"]:
        """Logits at every position, fp32, after any shift (the mask token still in); for checks, not for decoding.

        Args:
            tokens: int64 [B, S]; padding, if any, on the right.
            attention_mask: [B, S], 1 or True where there is a token.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        return self.logits_at(tokens, attention_mask, positions).float()

    def logits_at(
        self, tokens: Int[Tensor, "B S"], attention_mask: Bool[Tensor, "B S"] | Int[Tensor, "B S"], positions: Int[Tensor, "B n"]
    ) -> Float[Tensor, "B n V"]:
        """One forward pass; logits, in the network's dtype, that predict the tokens at `positions`: the head runs on those alone."""
        return self.to_logits(self.hidden_at(tokens, attention_mask, positions))

    def hidden_at(
        self, tokens: Int[Tensor, "B S"], attention_mask: Bool[Tensor, "B S"] | Int[Tensor, "B S"], positions: Int[Tensor, "B n"]
    ) -> Float[Tensor, "B n width"]:
        """One forward pass of the backbone; the hidden states that the head predicts `positions` from."""
        hidden = self.network.base_model(input_ids=tokens, attention_mask=attention_mask.long(), use_cache=False).last_hidden_state
        where = (positions - 1).clamp(min=0) if self.shift else positions
        return hidden.gather(1, where[:, :, None].expand(-1, -1, hidden.shape[-1]))

    def to_logits(self, hidden: Float[Tensor, "B n width"]) -> Float[Tensor, "B n V"]:
        """The language-model head."""
        return (self.head or self.network.get_output_embeddings())(hidden)

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
        unconditional: Int[Tensor, "B S"] | None = None,
        cfg_scale: float = 0.0,
        eos: str = "free",
    ) -> Proposal:
        """One forward pass (two with guidance); the head runs on `positions` only, and probabilities are fp32.

        Args:
            tokens: int64 [B, S], padding on the right.
            attention_mask: bool [B, S].
            positions: int64 [B, n], which positions to propose for.
            needs: features to compute beside the confidence, of `FEATURES`.
            k: how many of the largest probabilities to return.
            temperature: τ; 0 proposes the most probable token, else a token is drawn from softmax(logits / τ).
            generator: draws for τ > 0, one key a row. The noise belongs to (row, position), not to the step: a position is revealed
                once, and until then its draw influences nothing, so this samples exactly.
            unconditional: int64 [B, S], the same canvas with its prompt masked, for classifier-free guidance.
            cfg_scale: its weight w: logits = l_u + (w + 1)·(l − l_u).
            eos: "free"; "never" proposes no end-of-text token (LLaDA's logits_eos_inf); "last" proposes it with confidence 0
                (LLaDA's confidence_eos_eot_inf), so that policies that go by confidence reveal it last.

        Returns:
            A `Proposal` for the n positions; confidence and features are those of the model at τ = 1.
        """
        if unconditional is None:
            hidden = self.hidden_at(tokens, attention_mask, positions)
            logits = self.to_logits(hidden).float()
        else:
            both = [torch.cat(pair) for pair in ((tokens, unconditional), (attention_mask,) * 2, (positions,) * 2)]
            hidden = self.hidden_at(*both)
            logits, without = self.to_logits(hidden).float().chunk(2)
            hidden = hidden.chunk(2)[0]
            logits = without + (cfg_scale + 1) * (logits - without)
        ends = list(self.eos_ids)
        logits[..., [*self.never_ids, *(ends if eos == "never" else ())]] = -torch.inf
        drawn = logits / temperature + gumbel(generator, logits) if temperature > 0 else logits
        tokens_out = drawn.argmax(-1)
        if eos == "last":  # LLaDA's rule: probabilities are those of the other tokens, and a proposed end has none
            logits[..., ends] = -torch.inf
        log_z = logits.logsumexp(-1, keepdim=True)
        best = logits.topk(max(k, 2 if "margin" in needs else 1), dim=-1).values
        probabilities = (best - log_z).exp()
        if eos == "last":
            ending = torch.isin(tokens_out, torch.tensor(ends, device=tokens_out.device))
            probabilities = probabilities.masked_fill(ending[..., None], 0.0)
        features = {"hidden": hidden} if "hidden" in needs else {}
        if "margin" in needs:
            features["margin"] = probabilities[..., 0] - probabilities[..., 1]
        if "entropy" in needs:
            log_p = logits - log_z
            entropy = -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)
            features["entropy"] = torch.where(probabilities[..., 0] > 0, entropy, math.log(logits.shape[-1]))
        return Proposal(tokens_out, probabilities[..., :k], features)


def gumbel(generator: Uniform | None, logits: Float[Tensor, "B n V"]) -> Float[Tensor, "B n V"]:
    """Gumbel noise of the rows' own generators, the same at every step."""
    assert generator is not None, "temperature > 0 draws tokens and needs a generator"
    n, vocabulary = logits.shape[1:]
    noise = generator.uniform(0, n * vocabulary, 1).view(-1, n, vocabulary)
    return -(-(noise + 2.0**-25).log()).log()
