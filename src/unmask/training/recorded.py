"""A decoded piece of a recording, and what may be asked of the frozen model about it afterwards:
the worked answer's margins, and verdicts on one more reveal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.decoding import DecodeOptions, decode
from unmask.decoding.canvas import padded_width
from unmask.decoding.generation import answer_text
from unmask.models import Forward, Model, Sampling
from unmask.policies.base import Observation, PolicyLike
from unmask.rng import RowGenerator
from unmask.tasks import Example, Task
from unmask.training.traces import RIGHT

LARGEST_TABLE = 2**25  # logits that are held at once where a token's probability is looked up
JUDGED, PLACE = 101, 102  # streams of random numbers: which steps are judged, and which position


@dataclass(frozen=True)
class Decoded:
    """Decodes of N problems, and their T steps, ordered by answer and step. On the CPU.

    Attributes:
        rows: int64 [N], the numbers of the problems.
        ids, keys, examples: their tokens, random keys, and the problems.
        sampler, options: how they were decoded.
        text: the answers.
        tokens: int64 [N, L].
        reveal_step: int64 [N, L].
        nfe: int64 [N].
        correct: fp32 [N].
        row: int64 [T], which decode a step is of.
        observation: T rows.
        proposal: int64 [T, L].
        forwards: rows that went through the frozen model.
    """

    rows: Int[Tensor, " N"]
    ids: Sequence[list[int]]
    keys: Sequence[int]
    examples: Sequence[Example]
    sampler: PolicyLike
    options: DecodeOptions
    text: Sequence[str]
    tokens: Int[Tensor, "N L"]
    reveal_step: Int[Tensor, "N L"]
    nfe: Int[Tensor, " N"]
    correct: Float[Tensor, " N"]
    row: Int[Tensor, " T"]
    observation: Observation
    proposal: Int[Tensor, "T L"]
    forwards: int

    @property
    def action(self) -> Bool[Tensor, "T L"]:
        """What each step revealed."""
        return self.reveal_step[self.row] == self.observation.step[:, None]


def encode_answers(
    model: Model, examples: Sequence[Example], length: int
) -> list[list[int] | None]:
    """The worked answers as buffers of L tokens, filled up with the end of text; None where there
    is none or it is too long."""
    answers = [example.answer for example in examples]
    ids = model.tokenizer(answers, add_special_tokens=False)["input_ids"]
    return [
        [*row, *[model.eos_ids[0]] * (length - len(row))] if 0 < len(row) <= length else None
        for row in ids
    ]


def force_answers(
    model: Model, decoded: Decoded, batch_size: int
) -> tuple[Decoded, Float[Tensor, "T L"]]:
    """The same steps with the worked answers' tokens on the canvas instead of the sampler's own, so
    that the frozen model is asked about each once more.

    Returns:
        The steps with proposals and confidences of those canvases; their answers are the worked
            ones, which are right. And the margins by which the worked answer's tokens win: their
            probability less that of their best rival.
    """
    length = decoded.tokens.shape[1]
    truth = torch.tensor(encode_answers(model, decoded.examples, length))
    seen = decoded.observation
    buffers = truth[decoded.row].masked_fill(seen.masked, model.mask_id)
    sampling, k = Sampling(eos=decoded.options.eos), seen.confidence.shape[-1]
    needs = frozenset({"margin", *seen.features})
    parts = []
    for part in torch.arange(len(buffers)).split(batch_size):
        forward = lay_out(
            model, [decoded.ids[i] for i in decoded.row[part].tolist()], buffers[part]
        )
        hidden, _ = model.hidden_states(forward)
        found = model.proposal(hidden, sampling, needs=needs, k=k)
        true = truth[decoded.row[part]].to(hidden.device)
        margin = found.features["margin"]
        lost = found.tokens != true
        rival = found.confidence[..., 0][lost]
        margin[lost] = probability_of(model, hidden[lost], true[lost]) - rival
        features = {name: found.features[name].cpu() for name in seen.features}
        parts.append((found.tokens.cpu(), found.confidence.cpu(), margin.cpu(), features))
    tokens, confidence, margin, features = zip(*parts, strict=True)
    joined = {name: torch.cat([part[name] for part in features]) for name in seen.features}
    forced = replace(
        decoded,
        tokens=truth,
        correct=torch.ones_like(decoded.correct),
        observation=replace(seen, confidence=torch.cat(confidence), features=joined),
        proposal=torch.cat(tokens),
        forwards=decoded.forwards + len(buffers),
    )
    return forced, torch.cat(margin)


def lay_out(model: Model, prompts: Sequence[list[int]], buffers: Int[Tensor, "B L"]) -> Forward:
    """Prompts with buffers behind them, as the frozen model reads them."""
    length = buffers.shape[1]
    starts = torch.tensor([len(prompt) for prompt in prompts])
    width = padded_width(model, int(starts.max()) + length)
    tokens = torch.full((len(prompts), width), model.pad_id)
    for row, prompt, buffer in zip(tokens, prompts, buffers, strict=True):
        row[: len(prompt)] = torch.tensor(prompt, dtype=torch.long)
        row[len(prompt) : len(prompt) + length] = buffer
    positions = starts[:, None] + torch.arange(length)
    inside = torch.arange(width) < (starts + length)[:, None]
    device = model.device
    return Forward(tokens.to(device), inside.to(device), positions.to(device))


def probability_of(
    model: Model, hidden: Float[Tensor, "m width"], tokens: Int[Tensor, " m"]
) -> Float[Tensor, " m"]:
    """The probability of one token at each of m positions, at τ = 1."""
    at_once = max(1, LARGEST_TABLE // model.vocabulary)
    found = []
    for part, token in zip(hidden.split(at_once), tokens.split(at_once), strict=True):
        logits = model.to_logits(part[None])[0].float()
        logits[:, list(model.never_ids)] = -torch.inf
        found.append(logits.softmax(1).gather(1, token[:, None])[:, 0])
    return torch.cat(found) if found else hidden.new_zeros(0, dtype=torch.float32)


def judge_reveals(
    model: Model, task: Task, decoded: Decoded, share: float, batch_size: int
) -> tuple[Decoded, Int[Tensor, " T"], Float[Tensor, " T"]]:
    """Tries one more reveal in some steps of right answers, and decodes on.

    Beside what the step revealed, one masked position gets its proposal, drawn at random from those
    whose proposal is not the final token: of the others it is known that the answer is right with
    them. The same sampler goes on from there.

    Args:
        model: the frozen model.
        task: for the verdicts.
        decoded: the steps.
        share: of the steps of right answers.
        batch_size: rows decoded side by side.

    Returns:
        The steps with the rows forwarded counted; int64 [T] the position that was tried, −1 none;
            fp32 [T] the verdict on the decode that followed, 0 where there was none. In a step that
            was drawn but has nothing to try, since all proposals are final tokens, it is 1.
    """
    seen, action = decoded.observation, decoded.action
    tried = torch.full_like(decoded.row, -1)
    rejoined = torch.zeros(len(tried))
    generator = RowGenerator(torch.tensor(decoded.keys)[decoded.row])
    right = decoded.correct[decoded.row] > RIGHT
    drawn = generator.uniform(seen.step, 1, JUDGED)[:, 0] < share
    wrong = seen.eligible & ~action & (decoded.proposal != decoded.tokens[decoded.row])
    rejoined[right & drawn & ~wrong.any(1)] = 1
    chosen = (right & drawn & wrong.any(1)).nonzero()[:, 0]
    if not len(chosen):
        return decoded, tried, rejoined
    numbers = generator.uniform(seen.step, wrong.shape[1], PLACE)
    tried[chosen] = numbers.masked_fill(~wrong, -1).argmax(1)[chosen]
    hidden = seen.masked & ~action
    hidden[chosen, tried[chosen]] = False
    buffers = decoded.tokens[decoded.row].clone()
    buffers[chosen, tried[chosen]] = decoded.proposal[chosen, tried[chosen]]
    finished, forwards = decode_on(
        model, decoded, chosen, buffers[chosen], hidden[chosen], batch_size
    )
    texts = [answer_text(model, row, decoded.options.stop) for row in finished.tolist()]
    examples = [decoded.examples[i] for i in decoded.row[chosen].tolist()]
    verdicts = [verdict.correct for verdict in task.verdicts(texts, examples)]
    rejoined[chosen] = torch.tensor(verdicts, dtype=torch.float32)
    return replace(decoded, forwards=decoded.forwards + forwards), tried, rejoined


def decode_on(
    model: Model,
    decoded: Decoded,
    chosen: Int[Tensor, " n"],
    buffers: Int[Tensor, "n L"],
    hidden: Bool[Tensor, "n L"],
    batch_size: int,
) -> tuple[Int[Tensor, "n L"], int]:
    """Fills the hidden positions of buffers with the sampler of the decode.

    Returns:
        The finished buffers, and how many rows went through the frozen model.
    """
    left = hidden.any(1).nonzero()[:, 0].tolist()
    if not left:
        return buffers, 0
    rows = decoded.row[chosen].tolist()
    canvases, holes = [], []
    for i in left:
        prompt = decoded.ids[rows[i]]
        places = hidden[i].nonzero()[:, 0]
        canvases.append(prompt + buffers[i].masked_fill(hidden[i], model.mask_id).tolist())
        holes.append((places + len(prompt)).tolist())
    generation = decode(
        model,
        canvases,
        decoded.sampler,
        replace(decoded.options, max_new_tokens=None, block_length=None),
        batch_size=batch_size,
        keys=[decoded.keys[rows[i]] for i in left],
        holes=holes,
    )
    finished = buffers.clone()
    for i, tokens in zip(left, generation.tokens.cpu(), strict=True):
        finished[i, hidden[i]] = tokens[: int(hidden[i].sum())]
    return finished, generation.cost.rows
