"""`unmask.stream`: every step of a generation, while it happens."""

import pytest
import torch

from unmask import UnmaskError, generate, stream
from unmask.decoding import finish

PROMPTS = ["7 a +5 b *3 =", "2 a -0 =", "8 a -8 b +8 c *2 ="]


def played(model, spec, **options):
    """The steps, and what the generator returned."""
    steps = []
    return steps, finish(stream(model, PROMPTS, spec, **options), steps.append)


@pytest.mark.parametrize("spec", ["confidence:3", "threshold:0.3", "random:4"])
@pytest.mark.parametrize("block_length", [5, 24])
def test_the_steps_add_up_to_the_generation(tiny_model, spec, block_length):
    options = {"max_new_tokens": 24, "block_length": block_length, "batch_size": 2, "seed": 3}
    steps, generation = played(tiny_model, spec, **options)
    plain = generate(tiny_model, PROMPTS, spec, **options)
    assert (
        torch.equal(generation.tokens, plain.tokens)
        and torch.equal(generation.nfe, plain.nfe)
        and generation.text == plain.text
    )
    canvas = torch.full((3, 24), tiny_model.mask_id)
    seen, finished = torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.bool)
    for step in steps:
        assert not finished[step.rows].any()
        before = canvas[step.rows]
        assert torch.equal(step.tokens, torch.where(step.fresh, step.proposals, before))
        assert (before[step.fresh] == tiny_model.mask_id).all()
        assert torch.equal(step.fresh, plain.reveal_step[step.rows] == seen[step.rows, None])
        canvas[step.rows] = step.tokens
        seen[step.rows] += 1
        finished[step.rows] = step.finished
        assert torch.equal(step.finished, (step.tokens != tiny_model.mask_id).all(1))
    assert torch.equal(canvas, plain.tokens) and torch.equal(seen, plain.nfe) and finished.all()


def test_steps_come_while_the_model_works_and_can_be_cancelled(tiny_model):
    calls = []
    hook = tiny_model.network.base_model.register_forward_hook(lambda *_: calls.append(1))
    steps = stream(tiny_model, PROMPTS, "confidence:1", max_new_tokens=24)
    assert not calls
    for n in (1, 2, 3):
        next(steps)
        assert len(calls) == n
    steps.close()
    with pytest.raises(StopIteration):
        next(steps)
    hook.remove()
    assert len(calls) == 3
    assert (
        torch.is_inference_mode_enabled() is False
    )  # the mode of the decoder does not leak into the caller's code


def test_the_caller_is_not_in_inference_mode_between_steps(tiny_model):
    weight = torch.ones(1, requires_grad=True)
    for _ in stream(tiny_model, PROMPTS, "confidence:12", max_new_tokens=24):
        (weight * 2).sum().backward()
    assert weight.grad == 4


def test_infilling_streams_rows_under_their_own_numbers(tiny_model):
    mask = tiny_model.tokenizer.mask_token
    prompts = [f"7 a {mask} = {mask} {mask}", f"2 a {mask}"]
    steps = list(stream(tiny_model, prompts, "confidence:1", infill=True))
    assert [step.rows.tolist() for step in steps] == [[0, 1], [0], [0]]
    assert steps[0].tokens.shape == (2, 3) and steps[0].finished.tolist() == [False, True]
    assert [result.ticket for step in steps for result in step.results] == [1, 0]
    assert [len(result.tokens) for step in steps for result in step.results] == [1, 3]


def test_bad_arguments_are_refused_at_the_call(tiny_model):
    with pytest.raises(UnmaskError, match="max_new_tokens"):
        stream(tiny_model, PROMPTS, "confidence:1")
