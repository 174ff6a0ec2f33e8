"""The frozen model: what it proposes for the masked positions, and how sure it is."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from unmask.errors import UnmaskError, short_text
from unmask.models.cache import BlockView, CacheView, PaddedKeys
from unmask.models.head import (
    GREEDY,
    HeadPlan,
    Sampling,
    TokenMask,
    TokenRules,
    best_tokens,
    ids_on_device,
    log_probs_of,
)
from unmask.rng import TOKEN


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
        confidence: fp32 [B, n, k], the probability of that token (the confidence c of paper §2),
            then the k − 1 largest of the other tokens. At temperature 0 these are the k largest.
        features: fp32 [B, n] each: `entropy` in nats, `margin` (top-1 minus top-2 probability), if
            they were asked for; both are of the distribution, whatever token was drawn. And
            `hidden` [B, n, width], what the head reads, in the network's dtype.
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
class Forward:
    """What one forward pass reads.

    Attributes:
        tokens: int64 [B, S], padding on the right.
        inside: bool [B, S], False at padding.
        positions: int64 [B, n], which positions to propose for.
        view: cached keys and values to read and write; positions that its queries do not reach must
            not be needed.
        unconditional: int64 [B, S], the same canvas with its prompt masked, for guidance.
    """

    tokens: Int[Tensor, "B S"]
    inside: Bool[Tensor, "B S"]
    positions: Int[Tensor, "B n"]
    view: CacheView | BlockView | None = None
    unconditional: Int[Tensor, "B S"] | None = None


@dataclass(frozen=True)
class Model:
    """A frozen masked diffusion language model.

    Attributes:
        network: a `transformers` model that sees what its mask says, with a language-model head.
        tokenizer: its tokenizer.
        mask_id: the token that stands for "not revealed yet".
        eos_ids: tokens that end a text; the first one fills up short answers. (This and `never_ids`
            may be given as any list of whole numbers.)
        never_ids: tokens that are never proposed: the mask and other ids that no text contains.
        name: what it was loaded as.
        max_new_tokens: the length L of the answers it was trained on, if it says so.
        family: which kind of checkpoint it came from.
        shift: the network's output at position i predicts token i + 1 (Dream); `logits` and
            `propose` undo this.
        head: from hidden states to logits; None takes the network's output embeddings.
        attention_block: b of a block-causal model: a position sees its own block of b positions and
            all blocks before it, counted from the first token of the sequence. None is full
            attention: every position sees every other.
        causal_context: of a block-causal model: blocks are counted from the end of the prompt, and
            what stands before a block is its context, in which a position sees none behind it. In
            a whole forward pass the last b tokens of a row are its block, and a finished block's
            keys and values are computed anew.

    Raises:
        UnmaskError: if the network is a causal language model, the ids are no lists of whole
            numbers, or the mask token may be proposed or ends a text.

    Examples:
        >>> model = unmask.load_model("embedded/chain")
        >>> tokens = model.tokenizer("7 a +5 =", return_tensors="pt")["input_ids"]
        >>> logits = model.logits(tokens, tokens == tokens)  # every position is real
        >>> logits.shape[:2] == tokens.shape
        True
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
    attention_block: int | None = None
    causal_context: bool = False

    def __post_init__(self) -> None:
        config = getattr(self.network, "config", None)
        causal = getattr(config, "is_causal", None) is not False
        if causal and type(self.network).__name__.endswith("ForCausalLM"):
            raise UnmaskError(
                f"the network is a {type(self.network).__name__} whose config does not say "
                "is_causal=False, so it sees no token behind a mask; give a masked diffusion model"
            )
        for name in ("eos_ids", "never_ids"):
            object.__setattr__(self, name, as_ids(name, getattr(self, name)))
        if self.mask_id not in self.never_ids or self.mask_id in self.eos_ids:
            raise UnmaskError(
                f"mask_id is {self.mask_id}; it has to be among never_ids and not among eos_ids, "
                "since the mask token is never proposed"
            )

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states that the head reads."""
        return self.network.config.hidden_size

    @cached_property
    def pad_id(self) -> int:
        """A token for positions that attention never sees."""
        return (
            self.eos_ids[0] if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        )

    @cached_property
    def largest_id(self) -> int:
        """The largest id of the tokenizer's vocabulary, which may have gaps."""
        return max(self.tokenizer.get_vocab().values())

    @cached_property
    def max_positions(self) -> int | None:
        """The longest canvas that learned position embeddings allow; None for rotary positions,
        which go on."""
        config = self.network.config
        if config.model_type not in ("bert", "roberta"):
            return None
        return config.max_position_embeddings - (
            config.pad_token_id + 1 if config.model_type == "roberta" else 0
        )

    @cached_property
    def end_set(self) -> frozenset[int]:
        """`eos_ids`, to look tokens up in."""
        return frozenset(self.eos_ids)

    @cached_property
    def never_set(self) -> frozenset[int]:
        """`never_ids`, to look tokens up in."""
        return frozenset(self.never_ids)

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
            tokens: int64 [B, S]; padding, if any, on the right or on the left.
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
        view: CacheView | BlockView | None = None,
    ) -> Float[Tensor, "B n width"]:
        """One forward pass of the backbone; the hidden states that the head predicts `positions`
        from.

        With a `view` of cached keys and values the pass takes its queries only, and refreshes them;
        elsewhere hidden states mean nothing.
        """
        blocks = view if isinstance(view, BlockView) else None
        queries = tokens if blocks is None else blocks.queries
        parts = min(-(-queries.numel() // self.positions_at_once), len(tokens))
        if (view is not None and blocks is None) or parts <= 1:
            return self._run_backbone(tokens, attention_mask, positions, view)
        views = [None] * parts if blocks is None else blocks.split(parts)
        cut = (x.tensor_split(parts) for x in (tokens, attention_mask, positions))
        pieces = zip(*cut, views, strict=True)
        return torch.cat([self._run_backbone(*piece) for piece in pieces])

    def _run_backbone(
        self,
        tokens: Tensor,
        attention_mask: Tensor,
        positions: Tensor,
        view: CacheView | BlockView | None,
    ) -> Float[Tensor, "B n width"]:
        """`hidden_at` for as many rows as are taken at once."""
        where = (positions - 1).clamp(min=0) if self.shift else positions
        if view is not None and view.queries is not None:
            where = view.reached(where)[1]
            if isinstance(view, BlockView):
                mask = view.mask()
            else:
                mask = attention_mask[:, None, None, :].expand(-1, 1, view.queries.shape[1], -1)
            inputs: dict[str, Any] = {
                "input_ids": tokens.gather(1, view.queries),
                "attention_mask": mask,
                "position_ids": view.queries,
                self.cache_keyword: view,
            }
        else:
            padding = -tokens.shape[1] % 16 if self.takes_mask and view is None else 0
            inputs = {"input_ids": tokens}
            inputs["attention_mask"] = self.prepared(attention_mask, padding)
            if view is not None or padding:
                inputs[self.cache_keyword] = view or PaddedKeys(padding)
                inputs["position_ids"] = torch.arange(
                    tokens.shape[1], device=tokens.device
                ).expand_as(tokens)
            if self.attention_block is not None or self.network.config.model_type == "bert":
                inputs["position_ids"] = places_in_text(attention_mask)
        # Inference mode is fastest, but its tensors cannot take part in anybody's training: what
        # leaves this function is made outside of it.
        with torch.inference_mode():
            hidden = self.network.base_model(**inputs, use_cache=False).last_hidden_state
        return hidden.gather(1, where[:, :, None].expand(-1, -1, hidden.shape[-1]))

    @cached_property
    def cache_keyword(self) -> str:
        """What the backbone calls its argument for cached keys and values. transformers 5.24 calls
        it `cache`, and warns of the name that it had before."""
        known = inspect.signature(type(self.network.base_model).forward).parameters
        return "cache" if "cache" in known else "past_key_values"

    @cached_property
    def positions_at_once(self) -> int:
        """How many positions the backbone takes at once. On CPUs, activations of more than some 5
        MB leave the cache, and their memory is mapped anew each time; a GPU takes all."""
        if self.device.type != "cpu":
            return 2**62
        widest = getattr(self.network.config, "intermediate_size", None) or 4 * self.hidden_size
        return max(1, 5 * 2**20 // (widest * self.dtype.itemsize))

    @cached_property
    def takes_mask(self) -> bool:
        """Whether every layer of the network sees just what a mask says, through a kernel that
        takes that mask ready-made."""
        config = self.network.config
        layers = set(getattr(config, "layer_types", None) or ["full_attention"])
        return (
            getattr(config, "is_causal", True) is False
            and config._attn_implementation == "sdpa"
            and layers == {"full_attention"}
        )

    def prepared(self, attention_mask: Tensor, padding: int = 0) -> Tensor:
        """The mask as the network takes it. Where possible ready-made, [B, 1, S, S + padding]: that
        saves building it, a host synchronisation (is it all ones?), and, as the kernel always gets
        one, rows without padding have the same bits as others."""
        if not self.takes_mask:
            return attention_mask.long()
        seen = pad(attention_mask.bool(), (0, padding))[:, None, None, :]
        if self.attention_block is None:
            return seen.expand(-1, 1, attention_mask.shape[1], -1)
        place = places_in_text(attention_mask)
        if self.causal_context:
            size = place[:, -1:] + 1
            place = torch.where(place < size - self.attention_block, place, size)
        else:
            place = place // self.attention_block
        return seen & (place[:, None, :, None] >= pad(place, (0, padding))[:, None, None, :])

    def to_logits(self, hidden: Float[Tensor, "B n width"]) -> Float[Tensor, "B n V"]:
        """The language-model head."""
        return (self.head or self.network.get_output_embeddings())(hidden)

    @torch.no_grad()
    def propose(
        self,
        forward: Forward,
        sampling: Sampling = GREEDY,
        *,
        needs: Set[str] = frozenset(),
        k: int = 1,
        needed: Bool[Tensor, "B n"] | None = None,
        generator: Uniform | None = None,
    ) -> Proposal:
        """One forward pass (two with guidance), and `proposal` from its hidden states.

        Args:
            forward: what the network reads; with guidance its `unconditional` canvas is needed.
            sampling: how tokens are drawn.
            needs: features to compute beside the confidence, of `FEATURES`.
            k: how many probabilities to return at each position.
            needed: bool [B, n], where a proposal is needed; None is everywhere.
            generator: draws for τ > 0, one key a row.

        Raises:
            UnmaskError: for a draw without generator, guidance without an unconditional canvas, an
                unknown feature, or k out of range.
        """
        hidden, without = self.hidden_states(forward)
        return self.proposal(
            hidden,
            sampling,
            without=without,
            needs=needs,
            k=k,
            needed=needed,
            generator=generator,
        )

    def hidden_states(self, forward: Forward) -> tuple[Tensor, Tensor | None]:
        """`hidden_at` of a canvas and, if there is one, of the same without its prompt: both in one
        forward pass. [B, n, width] each."""
        if forward.unconditional is None:
            arguments = (forward.tokens, forward.inside, forward.positions, forward.view)
            return self.hidden_at(*arguments), None
        tokens = torch.cat([forward.tokens, forward.unconditional])
        inside = torch.cat([forward.inside] * 2)
        hidden, without = self.hidden_at(tokens, inside, torch.cat([forward.positions] * 2)).chunk(
            2
        )
        return hidden, without

    @torch.no_grad()
    def proposal(
        self,
        hidden: Float[Tensor, "B n width"],
        sampling: Sampling = GREEDY,
        *,
        without: Float[Tensor, "B n width"] | None = None,
        needs: Set[str] = frozenset(),
        k: int = 1,
        needed: Bool[Tensor, "B n"] | None = None,
        count: int | None = None,
        generator: Uniform | None = None,
        allowed: Callable[[Tensor, Tensor], TokenMask] | None = None,
    ) -> Proposal:
        """Tokens and confidences from hidden states; the head runs on the needed positions only,
        and probabilities are fp32.

        Args:
            hidden: what the head reads.
            sampling: how tokens are drawn. The noise of a draw belongs to (row, position), not to
                the step. A position is revealed once; a policy that does not read confidences
                (random:K) therefore samples exactly. One that does sees how probable each draw is
                and prefers probable ones, as with LLaDA's and Fast-dLLM's samplers.
            without: the same from a canvas without its prompt, for guidance.
            needs: features to compute beside the confidence, of `FEATURES`.
            k: how many probabilities to return at each position.
            needed: bool [B, n], where a proposal is needed; None is everywhere. Elsewhere the token
                is the mask token, and confidence and features are 0.
            count: how many are needed, where the host knows it; else it waits to see.
            generator: draws for τ > 0, one key a row.
            allowed: which tokens may stand where: a function of rows and positions, int64 [m] each.
                Probabilities are among these tokens. None allows all.

        Returns:
            A `Proposal`; confidence and features are those of the model at τ = 1.

        Raises:
            UnmaskError: as `propose`.
        """
        self.check_proposal(sampling, needs, k, generator, without)
        where = needed_places(hidden, needed, count)
        head = self.head or self.network.get_output_embeddings()
        shape = hidden.shape[:2]
        tokens = torch.full(shape, self.mask_id, device=hidden.device)
        confidence = hidden.new_zeros(*shape, k, dtype=torch.float32)
        features = {
            name: hidden if name == "hidden" else hidden.new_zeros(shape, dtype=torch.float32)
            for name in sorted(needs)
        }
        ends = self.eos_ids if sampling.eos == "last" else ()
        never = self.never_ids + (self.eos_ids if sampling.eos == "never" else ())
        plan = HeadPlan.for_device(hidden.device.type)
        tile = self.vocabulary if sampling.restricted else min(plan.tile, self.vocabulary)
        most = plan.drawn if sampling.temperature > 0 else plan.logits
        parts = max(1, min(-(-len(where) * tile // most), len(where)))
        for part in where.tensor_split(parts) if len(where) else ():
            at = (part[:, 0], part[:, 1])
            choice = best_tokens(
                head,
                hidden[at],
                without=None if without is None else without[at],
                sampling=sampling,
                rules=TokenRules(never, ends, None if allowed is None else allowed(*at)),
                k=max(k, 2 if "margin" in needs else 1),
                entropy="entropy" in needs,
                noise=None if generator is None else self.noise(generator, at, sampling),
            )
            tokens[at] = choice.token
            seen = {"confidence": choice.confidence(k)}
            if "margin" in needs:
                seen["margin"] = choice.largest[:, 0] - choice.largest[:, 1]
            if choice.entropy is not None:
                seen["entropy"] = choice.entropy
            if ends:
                seen = self.unsure_of_ends(seen, choice.token)
            confidence[at] = seen.pop("confidence")
            for name, values in seen.items():
                features[name][at] = values
        return Proposal(tokens, confidence, features)

    @torch.no_grad()
    def token_log_probs(
        self,
        hidden: Float[Tensor, "B n width"],
        tokens: Int[Tensor, "B n"],
        *,
        needed: Bool[Tensor, "B n"] | None = None,
        count: int | None = None,
    ) -> tuple[Float[Tensor, "B n"], Bool[Tensor, "B n"]]:
        """How probable given tokens are, among those that may be proposed, at τ = 1.

        Args:
            hidden: what the head reads.
            tokens: int64 [B, n].
            needed: bool [B, n], where it is asked; None is everywhere.
            count: how many places are asked for, where the host knows it; else it waits to see.

        Returns:
            fp32 [B, n], log-probabilities in nats, and bool [B, n], whether each token is the most
            probable one; 0 and False where nothing was asked.
        """
        where = needed_places(hidden, needed, count)
        head = self.head or self.network.get_output_embeddings()
        values = hidden.new_zeros(hidden.shape[:2], dtype=torch.float32)
        best = torch.zeros(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        plan = HeadPlan.for_device(hidden.device.type)
        tile = min(plan.tile, self.vocabulary)
        parts = max(1, min(-(-len(where) * tile // plan.logits), len(where)))
        for part in where.tensor_split(parts) if len(where) else ():
            at = (part[:, 0], part[:, 1])
            values[at], top = log_probs_of(head, hidden[at], tokens[at], self.never_ids)
            best[at] = top == tokens[at]
        return values, best

    def unsure_of_ends(
        self, seen: dict[str, Tensor], token: Int[Tensor, " m"]
    ) -> dict[str, Tensor]:
        """LLaDA's rule for ends that come last: probabilities are of the other tokens, and where an
        end is proposed nothing is sure. What is not finite stays so: a broken model must be found.
        """
        ended = torch.isin(token, ids_on_device(self.eos_ids, 0, self.vocabulary, token.device))
        unsure = {"entropy": math.log(self.vocabulary)}
        return {
            name: values.masked_fill(
                (ended if values.ndim == 1 else ended[:, None]) & values.isfinite(),
                unsure.get(name, 0.0),
            )
            for name, values in seen.items()
        }

    def check_proposal(
        self,
        sampling: Sampling,
        needs: Set[str],
        k: int,
        generator: Uniform | None,
        without: Tensor | None,
    ) -> None:
        """Refuses a proposal that cannot be made; see `propose`."""
        if unknown := sorted(set(needs) - FEATURES):
            raise UnmaskError(
                f"feature {unknown[0]!r} is not known; known are {', '.join(sorted(FEATURES))}"
            )
        if not 1 <= k <= self.vocabulary:
            raise UnmaskError(
                f"the top {k} probabilities were asked for; this model has {self.vocabulary} tokens"
            )
        if sampling.temperature > 0 and generator is None:
            raise UnmaskError(
                "temperature is above 0 and no generator was given; give a RowGenerator"
            )
        if sampling.cfg_scale and without is None:
            raise UnmaskError(
                "cfg_scale was given without a canvas whose prompt is masked; give `unconditional`"
            )

    @cached_property
    def vocabulary(self) -> int:
        """V, the number of logits."""
        return self.network.get_input_embeddings().weight.shape[0]

    def noise(
        self, generator: Uniform, at: tuple[Tensor, Tensor], sampling: Sampling
    ) -> Callable[[int, int], Tensor] | None:
        """Uniform numbers that belong to (row, position, token): for the positions `at`, a function
        of the first token and how many. None for greedy proposals."""
        if sampling.temperature == 0:
            return None
        rows, first = generator[at[0]], at[1] * self.vocabulary
        return lambda token, n: rows.uniform(0, n, TOKEN, first + token)


def as_ids(name: str, values: Any) -> tuple[int, ...]:
    """Token ids as a tuple.

    Raises:
        UnmaskError: if they are no list of whole numbers.
    """
    try:
        return tuple(index(value) for value in values)
    except TypeError:
        given = short_text(repr(values))
        raise UnmaskError(f"{name} is {given}; give a list of token ids") from None


def check_model(model: Any) -> None:
    """Refuses what is no model, or one that cannot answer: it needs a mask token and an end of text
    that are among its tokens. (`reveal` makes models that answer nothing themselves.)

    Raises:
        UnmaskError: if so.
    """
    if not isinstance(model, Model):
        raise UnmaskError(f"model is {model!r}; give one that load_model returned")
    if not model.eos_ids:
        raise UnmaskError(
            f"model {model.name} has no end of text; give unmask.Model its eos_ids, at least one"
        )
    last = model.vocabulary - 1
    if wrong := [token for token in (model.mask_id, *model.eos_ids) if not 0 <= token <= last]:
        raise UnmaskError(
            f"model {model.name} has the special token id {wrong[0]}; give unmask.Model ids from 0 "
            f"to {last}"
        )


def places_in_text(attention_mask: Tensor) -> Int[Tensor, "B S"]:
    """Positions counted from each row's first token; padding on the left has 0."""
    return attention_mask.long().cumsum(1).sub(1).clamp(min=0)


def needed_places(
    hidden: Float[Tensor, "B n width"], needed: Bool[Tensor, "B n"] | None, count: int | None
) -> Int[Tensor, "m 2"]:
    """Row and position of each place where a proposal is needed; at least 8, some of them repeated.

    CPUs multiply fewer than 8 rows in another order, and a row's bits must not depend on its
    batch-mates.
    """
    rows, n = hidden.shape[:2]
    if needed is None:
        every = torch.arange(rows * n, device=hidden.device)
        where, count = torch.stack([every // n, every % n], 1), rows * n
    elif count is None:
        where = needed.nonzero()
        count = len(where)
    else:
        where = torch.nonzero_static(needed, size=count)
    if 0 < count < 8:
        where = where[torch.arange(8, device=where.device) % count]
    return where
