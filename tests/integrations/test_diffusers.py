"""The scheduler for diffusers, in diffusers' own pipeline on a CPU."""

import importlib
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.decoding.test_engine import learned
from tests.integrations.engines import BLOCK, MASK, VOCABULARY, block_logits, block_network
from tests.reference.blocks import by_rule, decode_blocks
from tests.reference.decode import RULES
from unmask import UnmaskError

NEVER = (0, 1, 7)
PROMPTS = [[5, 9, 6], [6, 9, 12], [8, 30, 17]]
LENGTH = 9  # with the prompts, whole blocks


class Network(torch.nn.Module):
    """A block-causal model as the pipeline calls it."""

    def __init__(self):
        super().__init__()
        self.network, self.forwards = block_network(), 0
        self.device = torch.device("cpu")

    def forward(self, tokens, attention_mask, position_ids):
        self.forwards += 1
        logits = block_logits(self.network)
        return SimpleNamespace(logits=torch.stack([logits(row) for row in tokens.tolist()]))


@pytest.fixture(scope="module")
def diffusers(diffusers_dir):
    sys.path.insert(0, str(diffusers_dir))
    try:
        yield __import__("diffusers")
    finally:
        sys.path.remove(str(diffusers_dir))


@pytest.fixture
def pipeline(diffusers):
    """A function that answers prompts with a scheduler of these settings: tokens [N, L], and
    forward passes."""
    from unmask.integrations.diffusers import UnmaskScheduler

    def run(prompts, length=LENGTH, *, generator=None, temperature=0.0, **settings):
        scheduler = UnmaskScheduler(block_length=BLOCK, never_ids=NEVER, **settings)
        made = diffusers.LLaDA2Pipeline(Network(), scheduler)
        made.set_progress_bar_config(disable=True)
        answer = made(
            input_ids=torch.tensor(prompts),
            gen_length=length,
            mask_token_id=MASK,
            temperature=temperature,
            generator=generator,
            output_type="seq",
        )
        return answer.sequences.tolist(), made.model.forwards

    return run


def count(passes):
    """Forward passes of the pipeline: it looks once more whether a block is whole, unless as many
    steps as the block has positions are over."""
    return sum(n + (n < BLOCK) for n in passes)


@pytest.mark.parametrize("spec", ["confidence:1", "threshold:0.3", "margin:2", "entropy:0.8"])
def test_the_pipeline_gives_the_tokens_of_a_slow_loop(pipeline, spec):
    name, _, value = spec.partition(":")
    choose = by_rule(RULES[name](float(value) if "." in value else int(value)))
    logits = block_logits(block_network())
    expected = [
        decode_blocks(logits, prompt, LENGTH, BLOCK, MASK, NEVER, choose) for prompt in PROMPTS
    ]
    together, forwards = pipeline(PROMPTS, policy=spec)
    assert together == [tokens for tokens, _ in expected]
    assert forwards == count(
        [max(all_rows) for all_rows in zip(*(p for _, p in expected), strict=True)]
    )
    for prompt, (tokens, passes) in zip(PROMPTS, expected, strict=True):
        assert pipeline([prompt], policy=spec) == ([tokens], count(passes))


def test_a_learned_policy_and_a_seed_decide(pipeline, tmp_path):
    learned(3, conditioned=True).save_pretrained(tmp_path)
    settings = {"policy": str(tmp_path), "alpha": 2.0, "temperature": 0.8}
    first = pipeline(PROMPTS, seed=1, **settings)
    assert pipeline(PROMPTS, seed=1, **settings) == first
    assert pipeline(PROMPTS, seed=2, **settings) != first
    generator = torch.Generator().manual_seed(1)
    assert pipeline(PROMPTS, seed=2, generator=generator, **settings) == first


def test_each_block_and_row_draws_for_itself(diffusers):
    from unmask.integrations.diffusers import UnmaskScheduler

    scheduler = UnmaskScheduler("confidence:4", block_length=BLOCK, seed=1)
    sample, logits = torch.full((2, BLOCK), MASK), torch.zeros(2, BLOCK, 4000)

    def draw():
        terms = {"mask_token_id": MASK, "temperature": 1.0}
        return scheduler.step(logits, 0, sample, **terms).prev_sample.tolist()

    blocks = [tuple(row) for _ in range(3) for row in draw()]
    assert len(set(blocks)) == 6
    scheduler.set_timesteps(BLOCK)
    assert [tuple(row) for row in draw()] == blocks[:2]


def test_a_prompt_may_hold_masks_and_the_last_block_may_be_cut(pipeline):
    tokens, _ = pipeline([[5, MASK, 6, 8, 9], [MASK, 9, MASK, 4, MASK]], 6, policy="confidence:2")
    found = {token for row in tokens for token in row}
    assert found < set(range(VOCABULARY)) - {MASK, *NEVER}


def test_what_cannot_work_is_refused(diffusers, tmp_path):
    from unmask.integrations.diffusers import UnmaskScheduler

    learned(0, hidden=24).save_pretrained(tmp_path)
    with pytest.raises(UnmaskError, match="reads the model's hidden states"):
        UnmaskScheduler(str(tmp_path))
    scheduler = UnmaskScheduler("confidence:1", block_length=BLOCK)
    sample = torch.full((1, BLOCK), MASK)
    logits = torch.zeros(1, BLOCK, VOCABULARY)
    with pytest.raises(UnmaskError, match="mask_token_id is missing"):
        scheduler.step(logits, 0, sample)
    with pytest.raises(UnmaskError, match="logits are not finite"):
        scheduler.step(logits + torch.nan, 0, sample, mask_token_id=MASK)
    found = scheduler.step(logits, 0, sample, mask_token_id=MASK, return_dict=False)
    assert found[0].ne(MASK).sum() == found[1].sum() == 1 and not found[2].any()


def test_the_scheduler_is_saved_and_loaded(diffusers, tmp_path):
    from unmask.integrations.diffusers import UnmaskScheduler

    UnmaskScheduler("margin:2", block_length=8, never_ids=(4, 5)).save_pretrained(tmp_path)
    loaded = UnmaskScheduler.from_pretrained(tmp_path)
    assert loaded.config.policy == "margin:2" and loaded.num_inference_steps == 8
    assert loaded.decoder.settings.never_ids == (4, 5)


def test_without_diffusers_one_sentence_says_so(monkeypatch):
    module = "diffusers.schedulers.scheduling_block_refinement"
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "unmask.integrations.diffusers", raising=False)
    with pytest.raises(UnmaskError, match="diffusers has no BlockRefinementScheduler here"):
        importlib.import_module("unmask.integrations.diffusers")
