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

from unmask.models.cache import CacheView
from unmask.models.head import LOGITS, TILE, best_tokens


@runtime_checkable
class Uniform(Protocol):
    """What `propose` draws tokens with: `unmask.rng.RowGenerator`."""

    def uniform(self, counter: Any, n: int, stream: int, start: Any = 0) -> Tensor: ...

    def __getitem__(self, rows: Tensor) -> Uniform: ...


@dataclass(frozen=True)
class Proposal:
    """One forward pass' answer for n positions of each row.

    Attributes:
        tokens: int64 [B, n], the token each position would get (the most probable one at
            temperature 0).
        confidence: fp32 [B, n, k], the k largest probabilities, descending; the first is the
            confidence c of paper §2.
        features: fp32 [B, n] each: `entropy` in nats, `margin` (top-1 minus top-2 probability), if
            they were asked for; and `hidden` [B, n, width], what the head reads, in the network's
            dtype.
    """

    tokens: Int[Tensor, "B n"]
    confidence: Float[Tensor, "B n k"]
    features: dict[str, Tensor] = field(default_factory=dict)

    def where(self, chosen: Bool[Tensor, "B n"], other: Proposal) -> Proposal:
        """This where `chosen`, elsewhere the other."""

        def mixed(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(chosen if a.ndim == 2 else chosen[..., None], a, b)

        features = {
            name: mixed(value, other.features[name]) for name, value in self.features.items()
        }
        return Proposal(
            mixed(self.tokens, other.tokens), mixed(self.confidence, other.confidence), features
        )


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
        shift: the network's output at position i predicts token i + 1 (Dream); `logits` and
            `propose` undo this.
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
        return (
            self.eos_ids[0] if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        )

    @property
    def max_positions(self) -> int | None:
        """The longest canvas that learned position embeddings allow; None for rotary positions,
        which go on."""
        config = self.network.config
        if config.model_type not in ("bert", "roberta"):
            return None
        return config.max_position_embeddings - (
            config.pad_token_id + 1 if config.model_type == "roberta" else 0
        )

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    @torch.inference_mode()
    def logits(
        self, tokens: Int[Tensor, "B S"], attention_mask: Bool[Tensor, "B S"] | Int[Tensor, "B S"]
    ) -> Float[Tensor, "B S V"]:
        """Logits at every position, fp32, after any shift (the mask token still in); for checks,
        not for decoding.

        Args:
            tokens: int64 [B, S]; padding, if any, on the right.
            attention_mask: [B, S], 1 or True where there is a token.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        return self.logits_at(tokens, attention_mask, positions).float()

    def logits_at(
        self,
        tokens: Int[Tensor, "B S"],
        attention_mask: Bool[Tensor, "B S"] | Int[Tensor, "B S"],
        positions: Int[Tensor, "B n"],
    ) -> Float[Tensor, "B n V"]:
        """One forward pass; logits, in the network's dtype, that predict the tokens at `positions`:
        the head runs on those alone."""
        return self.to_logits(self.hidden_at(tokens, attention_mask, positions))

    def hidden_at(
        self,
        tokens: Int[Tensor, "B S"],
        attention_mask: Bool[Tensor, "B S"] | Int[Tensor, "B S"],
        positions: Int[Tensor, "B n"],
        view: CacheView | None = None,
    ) -> Float[Tensor, "B n width"]:
        """One forward pass of the backbone; the hidden states that the head predicts `positions`
        from.

        With a `view` of cached keys and values the pass takes its queries only, and refreshes them;
        elsewhere hidden states mean nothing.
        """
        where = (positions - 1).clamp(min=0) if self.shift else positions
        inputs = {"input_ids": tokens, "attention_mask": self.prepared(attention_mask)}
        if view is not None:
            everywhere = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
            inputs |= {"past_key_values": view, "position_ids": everywhere}
        if view is not None and view.queries is not None:
            where = view.reached(where)[1]
            mask = attention_mask[:, None, None, :].expand(-1, 1, view.queries.shape[1], -1)
            inputs |= {
                "input_ids": tokens.gather(1, view.queries),
                "attention_mask": mask,
                "position_ids": view.queries,
            }
        hidden = self.network.base_model(**inputs, use_cache=False).last_hidden_state
        return hidden.gather(1, where[:, :, None].expand(-1, -1, hidden.shape[-1]))

    @property
    def full_attention(self) -> bool:
        """Whether every layer of the network sees every position, through a kernel that takes a
        mask ready-made."""
        config = self.network.config
        layers = set(getattr(config, "layer_types", None) or ["full_attention"])
        return (
            getattr(config, "is_causal", True) is False
            and config._attn_implementation == "sdpa"
            and layers == {"full_attention"}
        )

    def prepared(self, attention_mask: Tensor) -> Tensor:
        """The mask as the network takes it. Where possible ready-made, [B, 1, S, S]: that saves
        building it, a host synchronisation (is it all ones?), and, as the kernel always gets one,
        rows without padding have the same bits as others."""
        if not self.full_attention:
            return attention_mask.long()
        return attention_mask.bool()[:, None, None, :].expand(-1, 1, attention_mask.shape[1], -1)

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
        needed: Bool[Tensor, "B n"] | None = None,
        needs: Set[str] = frozenset(),
        k: int = 1,
        temperature: float = 0.0,
        generator: Uniform | None = None,
        unconditional: Int[Tensor, "B S"] | None = None,
        cfg_scale: float = 0.0,
        eos: str = "free",
        view: CacheView | None = None,
    ) -> Proposal:
        """One forward pass (two with guidance); the head runs on the needed positions only, and
        probabilities are fp32.

        Args:
            tokens: int64 [B, S], padding on the right.
            attention_mask: bool [B, S].
            positions: int64 [B, n], which positions to propose for.
            needed: bool [B, n], where a proposal is needed; None is everywhere. Elsewhere the token
                is the mask token, and confidence and features are 0.
            needs: features to compute beside the confidence, of `FEATURES`.
            k: how many of the largest probabilities to return.
            temperature: τ; 0 proposes the most probable token, else a token is drawn from
                softmax(logits / τ).
            generator: draws for τ > 0, one key a row. The noise belongs to (row, position), not to
                the step: a position is revealed once, and until then its draw influences nothing,
                    so this samples exactly.
            unconditional: int64 [B, S], the same canvas with its prompt masked, for classifier-free
                guidance.
            cfg_scale: its weight w: logits = l_u + (w + 1)·(l − l_u).
            eos: "free"; "never" proposes no end-of-text token (LLaDA's logits_eos_inf); "last"
                proposes it with confidence 0 (LLaDA's confidence_eos_eot_inf), so that policies
                that go by confidence reveal it last.
            view: cached keys and values to read and write; positions that its queries do not reach
                must not be needed.

        Returns:
            A `Proposal` for the n positions; confidence and features are those of the model at τ =
            1.
        """
        if unconditional is None:
            hidden, without = self.hidden_at(tokens, attention_mask, positions, view), None
        else:
            both = [
                torch.cat(pair)
                for pair in ((tokens, unconditional), (attention_mask,) * 2, (positions,) * 2)
            ]
            hidden, without = self.hidden_at(both[0], both[1], both[2]).chunk(2)
        needed = torch.ones_like(positions, dtype=torch.bool) if needed is None else needed
        where = needed.nonzero()
        if (
            0 < len(where) < 8
            # products of fewer rows have other bits on CPUs, and a row's must not depend on its
            # batch-mates (lab book)
        ):
            where = where[torch.arange(8, device=where.device) % len(where)]
        head = self.head or self.network.get_output_embeddings()
        width = max(k, 2 if "margin" in needs else 1)
        found = Proposal(
            torch.full_like(positions, self.mask_id),
            hidden.new_zeros(*positions.shape, k, dtype=torch.float32),
        )
        features = {
            name: hidden.new_zeros(positions.shape, dtype=torch.float32)
            for name in needs
            if name != "hidden"
        }
        if "hidden" in needs:
            features["hidden"] = hidden
        for part in (
            where.tensor_split(-(-len(where) * min(TILE, self.vocabulary) // LOGITS))
            if len(where)
            else ()
        ):
            at = (part[:, 0], part[:, 1])
            token, probabilities, entropy = best_tokens(
                head,
                hidden[at],
                without=None if without is None else without[at],
                cfg_scale=cfg_scale,
                never=(*self.never_ids, *(self.eos_ids if eos == "never" else ())),
                last=self.eos_ids if eos == "last" else (),
                k=width,
                entropy="entropy" in needs,
                temperature=temperature,
                noise=self.noise(generator, at) if temperature > 0 else None,
            )
            if (
                eos == "last"
                # LLaDA's rule: probabilities are those of the other tokens, and a proposed end has none
            ):
                probabilities[
                    torch.isin(token, torch.tensor(self.eos_ids, device=token.device))
                ] = 0.0
            found.tokens[at] = token
            found.confidence[at] = probabilities[:, :k]
            if "margin" in needs:
                features["margin"][at] = probabilities[:, 0] - probabilities[:, 1]
            if entropy is not None:
                features["entropy"][at] = torch.where(
                    probabilities[:, 0] > 0, entropy, math.log(self.vocabulary)
                )
        return Proposal(found.tokens, found.confidence, features)

    @property
    def vocabulary(self) -> int:
        """V, the number of logits."""
        return self.network.get_input_embeddings().weight.shape[0]

    def noise(
        self, generator: Uniform | None, at: tuple[Tensor, Tensor]
    ) -> Callable[[int, int], Tensor]:
        """Uniform numbers that belong to (row, position, token): for the positions `at`, a function
        of the first token and how many."""
        assert generator is not None, "temperature > 0 draws tokens and needs a generator"
        rows, first = generator[at[0]], at[1] * self.vocabulary
        return lambda token, n: rows.uniform(0, n, 1, first + token)
