"""Options of `generate`: infilling, guidance, ends of text, stopping early."""

import pytest
import torch

import unmask
from unmask import UnmaskError
from unmask.decoding.request import Request

PROMPTS = ["7 a +5 b *3 =", "1 a +1 b -4 c *2 =", "3 a *3 ="]


def ids(model, text):
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_infilling_fills_the_masks_and_nothing_else(tiny_model):
    mask = tiny_model.mask_id
    rows = [ids(tiny_model, prompt) for prompt in PROMPTS]
    rows[0][2:4], rows[1][5], rows[2][0] = [mask, mask], mask, mask
    together = unmask.generate(tiny_model, rows, "confidence:1", infill=True)
    assert together.tokens.shape == (3, 2)
    assert together.nfe.tolist() == [2, 1, 1]
    assert together.reveal_step.tolist()[1:] == [[0, -1], [0, -1]]
    for i, row in enumerate(rows):
        holes = [k for k, token in enumerate(row) if token == mask]
        alone = unmask.generate(tiny_model, [row], "confidence:1", infill=True)
        assert alone.tokens[0].tolist() == together.tokens[i, : len(holes)].tolist()
        assert alone.text[0] == together.text[i]
        canvas = list(row)
        for _ in holes:  # the obvious way: one forward pass of the whole text for each mask
            logits = tiny_model.logits(torch.tensor([canvas]), torch.ones(1, len(canvas)).long())[
                0
            ].clone()
            logits[:, list(tiny_model.never_ids)] = -torch.inf
            left = [k for k in holes if canvas[k] == mask]
            best = max(left, key=lambda k: logits[k].softmax(-1).max())
            canvas[best] = int(logits[best].argmax())
        assert [canvas[k] for k in holes] == alone.tokens[0].tolist()


def test_infilling_cuts_what_is_filled_in_before_a_stop_string():
    model = unmask.load_model("embedded/chain")
    mask = model.tokenizer.mask_token
    prompt = f"7 a +5 b *3 = a then 7 {mask} {mask} {mask} . b so # 6"

    def from_the_left(observation):
        return observation.eligible & (observation.eligible.cumsum(1) == 1)

    before, behind = unmask.infill(model, [prompt], from_the_left).text[0].split("gives ")
    behind = behind[1:]  # the third gap is one digit
    for stop, left in (("gives", ""), ("ives", "g")):
        cut = unmask.infill(model, [prompt], from_the_left, stop=(stop,))
        assert cut.text[0].split() == (before + left + behind).split()
        assert cut.answer_tokens.tolist() == [1]


def test_alpha_that_overflows_is_refused(tiny_model):
    for alpha in (1e-60, 1e39, float("inf"), 0.0):
        with pytest.raises(unmask.UnmaskError, match="from 1e-30 to 1e\\+30"):
            Request(
                (1,),
                unmask.load_policy("confidence:1"),
                unmask.DecodeOptions(max_new_tokens=2),
                alpha=alpha,
            )


def test_infilling_a_masked_tail_is_generating(tiny_model):
    prompt = ids(tiny_model, PROMPTS[0])
    generated = unmask.generate(
        tiny_model, [prompt], "threshold:0.6", max_new_tokens=9, block_length=4
    )
    filled = unmask.generate(
        tiny_model,
        [prompt + [tiny_model.mask_id] * 9],
        "threshold:0.6",
        infill=True,
        block_length=4,
    )
    wide = unmask.generate(
        tiny_model,
        [prompt + [tiny_model.mask_id] * 2],
        "threshold:0.6",
        infill=True,
        block_length=4,
    )
    assert wide.tokens.shape == (1, 2), "a block length above the number of masks is full diffusion"
    assert torch.equal(generated.tokens, filled.tokens) and torch.equal(
        generated.reveal_step, filled.reveal_step
    )


def test_masks_in_prompts_need_infill_and_infill_needs_masks(tiny_model):
    with pytest.raises(UnmaskError, match="infill=True"):
        unmask.generate(tiny_model, ["7 a <mask> ="], "threshold:0.9", max_new_tokens=4)
    with pytest.raises(UnmaskError, match="holds no mask"):
        unmask.generate(tiny_model, ["7 a <mask> =", PROMPTS[0]], "threshold:0.9", infill=True)
    with pytest.raises(UnmaskError, match="max_new_tokens is missing"):
        unmask.generate(tiny_model, PROMPTS, "threshold:0.9")


def test_guidance_is_the_formula(tiny_model):
    w, prompt, length = 1.5, ids(tiny_model, PROMPTS[1]), 6
    canvas = prompt + [tiny_model.mask_id] * length
    nothing = [tiny_model.mask_id] * len(canvas)
    both = tiny_model.logits(torch.tensor([canvas, nothing]), torch.ones(2, len(canvas)).long())[
        :, len(prompt) :
    ]
    expected = both[1] + (w + 1) * (both[0] - both[1])
    expected[:, list(tiny_model.never_ids)] = -torch.inf
    generation = unmask.generate(
        tiny_model, [prompt], f"confidence:{length}", max_new_tokens=length, cfg_scale=w
    )
    assert generation.tokens[0].tolist() == expected.argmax(-1).tolist()
    assert (generation.nfe.tolist(), generation.cost.rows) == ([1], 2)
    plain = unmask.generate(tiny_model, [prompt], "confidence:1", max_new_tokens=length)
    assert torch.equal(
        plain.tokens,
        unmask.generate(
            tiny_model, [prompt], "confidence:1", max_new_tokens=length, cfg_scale=0.0
        ).tokens,
    )


def test_guided_rows_do_not_depend_on_their_mates(tiny_model):
    options = {"max_new_tokens": 8, "cfg_scale": 0.7}
    together = unmask.generate(tiny_model, PROMPTS, "threshold:0.5", **options)
    for i, prompt in enumerate(PROMPTS):
        alone = unmask.generate(tiny_model, [prompt], "threshold:0.5", **options)
        assert torch.equal(alone.tokens[0], together.tokens[i]) and int(alone.nfe[0]) == int(
            together.nfe[i]
        )


def test_ends_of_text_are_never_proposed_or_come_last():
    model = unmask.load_model("embedded/chain")
    options = {"max_new_tokens": 48}
    free = unmask.generate(model, PROMPTS, "confidence:1", **options)
    ends = torch.tensor(model.eos_ids)
    assert torch.isin(free.tokens, ends).any(1).all()
    never = unmask.generate(model, PROMPTS, "confidence:1", logits_eos_inf=True, **options)
    assert not torch.isin(never.tokens, ends).any()
    last = unmask.generate(model, PROMPTS, "confidence:1", confidence_eos_eot_inf=True, **options)
    for tokens, steps in zip(last.tokens, last.reveal_step, strict=True):
        ended = torch.isin(tokens, ends)
        assert ended.any() and steps[ended].min() > steps[~ended].max()
    with pytest.raises(UnmaskError, match="both given"):
        unmask.generate(
            model,
            PROMPTS,
            "confidence:1",
            logits_eos_inf=True,
            confidence_eos_eot_inf=True,
            **options,
        )


@pytest.mark.parametrize("policy", ["confidence:1", "threshold:0.9", "random:3"])
def test_stopping_at_the_end_changes_the_cost_and_not_the_text(policy):
    model = unmask.load_model("embedded/chain")
    whole = unmask.generate(model, PROMPTS, policy, max_new_tokens=48, block_length=16)
    early = unmask.generate(
        model, PROMPTS, policy, max_new_tokens=48, block_length=16, stop_at_eos=True
    )
    assert early.text == whole.text and torch.equal(early.answer_tokens, whole.answer_tokens)
    assert (early.nfe <= whole.nfe).all()
    assert not (early.tokens == model.mask_id).any()
    for i in range(len(PROMPTS)):
        end = int(early.answer_tokens[i])
        assert (early.reveal_step[i, : end + 1] >= 0).all(), (
            "everything before the end was revealed by the policy"
        )
        skipped = early.reveal_step[i] < 0
        assert torch.isin(early.tokens[i, skipped], torch.tensor(model.eos_ids)).all()
    if policy == "confidence:1":
        assert (early.nfe < whole.nfe).all()


def test_answer_tokens_are_those_before_the_end():
    model = unmask.load_model("embedded/chain")
    generation = unmask.generate(model, PROMPTS, "confidence:2", max_new_tokens=48)
    for tokens, count in zip(
        generation.tokens.tolist(), generation.answer_tokens.tolist(), strict=True
    ):
        assert tokens[count] in model.eos_ids and not set(tokens[:count]) & set(model.eos_ids)


@pytest.mark.parametrize(
    "options", [{"cfg_scale": -1.0}, {"cfg_scale": float("nan")}, {"cfg_scale": 1e300}]
)
def test_bad_guidance_is_refused(tiny_model, options):
    with pytest.raises(UnmaskError, match="cfg_scale"):
        unmask.generate(tiny_model, PROMPTS, "confidence:1", max_new_tokens=4, **options)
