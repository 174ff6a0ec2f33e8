"""Options of the draw and of a row's end: top-p, top-k, stop strings, the limit of passes."""

from dataclasses import replace

import pytest
import torch

import unmask
from tests.reference.decode import RULES, decode_row
from unmask.decoding import DecodeOptions, Request, decode
from unmask.decoding.generation import count_answer, find_stop, row_text
from unmask.models import Forward
from unmask.models.head import Sampling, TokenRules, best_tokens, restrict
from unmask.policies import load_policy
from unmask.rng import TOKEN, RowGenerator, gumbel_noise, row_keys


def allowed_tokens(logits, temperature, top_k, top_p):
    """The tokens that may be drawn, in words: the k largest, of those the shortest prefix ≥ p."""
    p = (logits / temperature).softmax(-1).tolist()
    ranked = sorted(range(len(p)), key=lambda i: -p[i])[: top_k or None]
    whole, share, kept = sum(p[i] for i in ranked), 0.0, []
    for i in ranked:
        if kept and share >= top_p:
            break
        kept.append(i)
        share += p[i] / whole
    return set(kept)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.5), (0, 0.9), (3, 1.0), (7, 0.6), (1, 0.3)])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_restricted_logits_are_those_of_the_tokens_allowed(top_k, top_p, temperature):
    torch.manual_seed(0)
    logits = torch.randn(20, 50)
    kept = restrict(logits, Sampling(temperature, top_p, top_k)) > -torch.inf
    for row, mask in zip(logits, kept, strict=True):
        expected = allowed_tokens(row.double(), temperature, top_k, top_p)
        assert set(mask.nonzero()[:, 0].tolist()) == expected


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(1.0, 0.9), Sampling(1.0, 1.0, 2)])
def test_the_largest_uniform_number_draws_no_token_that_may_not_be(sampling):
    """2 in 10 million numbers are the largest of 24 bits; its noise is finite."""
    largest = torch.tensor([[0.0, 1 - 2.0**-24]])
    assert gumbel_noise(largest).isfinite().all()
    hidden = torch.tensor([[30.0, 0.0, 0.0, 0.0]])  # logits, for the head is the identity
    head = torch.nn.Linear(4, 4, bias=False)
    torch.nn.init.eye_(head.weight)
    for token in (1, 2, 3):
        numbers = torch.full((1, 8), 0.5).index_fill(1, torch.tensor([token]), largest.max())
        rules = TokenRules(never=(3,))
        found = best_tokens(
            head,
            hidden,
            sampling=sampling,
            rules=rules,
            noise=lambda first, n, numbers=numbers: numbers[:, first : first + n],
        )
        assert found.token.tolist() == [0], token


@pytest.mark.parametrize("spec", ["confidence:2", "threshold:0.3", "factor:1.5", "margin:2"])
@pytest.mark.parametrize("block_length", [3, 10])
def test_draws_and_their_confidence_are_those_of_the_slow_statement(tiny_model, spec, block_length):
    """The confidence of a drawn token is its own probability, not the largest one."""
    prompts, length, differ = [[5, 6, 7], [9, 4, 8, 12, 7], [11]], 10, 0
    name, _, value = spec.partition(":")
    rule = RULES[name](float(value) if "." in value else int(value))
    options = {"max_new_tokens": length, "block_length": block_length, "temperature": 0.9}
    found = decode(tiny_model, prompts, load_policy(spec), seed=3, **options)
    for row, (prompt, key) in enumerate(zip(prompts, row_keys(prompts, 3), strict=True)):
        size = tiny_model.vocabulary
        numbers = RowGenerator(torch.tensor([key])).uniform(0, length * size, TOKEN)
        tokens, nfe, steps = decode_row(
            tiny_model, prompt, rule, length, block_length, 0.9, numbers.view(length, size)
        )
        assert found.tokens[row].tolist() == tokens
        assert (int(found.nfe[row]), found.reveal_step[row].tolist()) == (nfe, steps)
        greedy = decode_row(tiny_model, prompt, rule, length, block_length)
        differ += tokens != greedy[0]
    assert differ


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_other_probabilities_are_the_largest_of_the_other_tokens(tiny_model, k, temperature):
    tokens = torch.full((40, 6), tiny_model.mask_id)
    mask, positions = torch.ones_like(tokens, dtype=torch.bool), torch.arange(6).expand(40, -1)
    forward = Forward(tokens, mask, positions.contiguous())
    proposal = tiny_model.propose(
        forward,
        Sampling(temperature),
        needs=frozenset({"margin", "entropy"}),
        k=k,
        generator=RowGenerator(torch.arange(40)) if temperature else None,
    )
    logits = tiny_model.logits(tokens, mask).double()
    logits[..., list(tiny_model.never_ids)] = -torch.inf
    p = logits.softmax(-1)
    own = p.gather(-1, proposal.tokens[..., None])
    others = p.scatter(-1, proposal.tokens[..., None], -1.0).topk(k).values[..., : k - 1]
    torch.testing.assert_close(
        proposal.confidence.double(), torch.cat([own, others], -1), atol=1e-5, rtol=1e-4
    )
    top = p.topk(2).values  # margin and entropy are of the distribution, whatever was drawn
    torch.testing.assert_close(
        proposal.features["margin"].double(), top[..., 0] - top[..., 1], atol=1e-5, rtol=1e-4
    )
    entropy = torch.special.entr(p).sum(-1)
    torch.testing.assert_close(proposal.features["entropy"].double(), entropy, atol=1e-4, rtol=1e-4)


def test_draws_follow_the_restricted_distribution_and_the_order_does_not(tiny_model):
    prompt, n, options = [9, 5, 17], 3000, {"temperature": 2.0, "top_k": 6, "top_p": 0.8}
    canvas = torch.tensor([[*prompt, tiny_model.mask_id]])
    logits = tiny_model.logits(canvas, torch.ones(1, 4, dtype=torch.long))[0, -1].clone()
    logits[list(tiny_model.never_ids)] = -torch.inf
    allowed = sorted(allowed_tokens(logits, 2.0, 6, 0.8))
    p = torch.zeros_like(logits)
    p[allowed] = (logits[allowed] / 2.0).softmax(-1)
    policy = load_policy("confidence:1")
    drawn = decode(tiny_model, [prompt] * n, policy, max_new_tokens=1, batch_size=500, **options)
    frequency = torch.bincount(drawn.tokens[:, 0], minlength=len(p)) / n
    assert 1 < len(allowed) < 7
    assert ((frequency - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-3).all()


def test_a_restriction_to_one_token_is_greedy(tiny_model):
    prompts = [[9, 5, 17], [4, 8]]
    greedy = unmask.generate(tiny_model, prompts, "threshold:0.4", max_new_tokens=9)
    for options in ({"top_k": 1}, {"top_p": 1e-6}):
        one = unmask.generate(
            tiny_model, prompts, "threshold:0.4", max_new_tokens=9, temperature=1.5, **options
        )
        assert torch.equal(one.tokens, greedy.tokens)
        assert torch.equal(one.reveal_step, greedy.reveal_step)
    ignored = unmask.generate(tiny_model, prompts, "threshold:0.4", max_new_tokens=9, top_p=0.1)
    assert torch.equal(ignored.tokens, greedy.tokens)


def test_a_stop_string_cuts_the_text_and_ends_the_row():
    model, prompts = unmask.load_model("embedded/chain"), ["7 a +5 b *3 =", "3 a *3 b -1 ="]
    options = {"max_new_tokens": 48, "block_length": 16}
    whole = unmask.generate(model, prompts, "confidence:1", **options)
    for stop in ("#", " b", "b"):
        cut = unmask.generate(model, prompts, "confidence:1", stop=(stop, "never there"), **options)
        assert cut.text == [text.split(stop)[0] for text in whole.text]
        assert (cut.nfe < whole.nfe).all()
        for row in range(2):
            shown = cut.reveal_step[row] >= 0
            assert torch.equal(cut.tokens[row][shown], whole.tokens[row][shown])
            assert (cut.tokens[row][~shown] == model.eos_ids[0]).all()
    absent = unmask.generate(model, prompts, "confidence:1", stop=("never there",), **options)
    assert absent.text == whole.text and torch.equal(absent.nfe, whole.nfe)


def test_a_stop_string_may_be_a_special_token(tiny_model):
    ids = tiny_model.tokenizer("1 a +5 = <pad> 7 b", add_special_tokens=False)["input_ids"]
    policy = load_policy("confidence:1")
    for stop, text in (((), "1 a +5 = 7 b"), (("<pad>",), "1 a +5 ="), (("+5", "<pad>"), "1 a")):
        options = DecodeOptions(max_new_tokens=len(ids), stop=stop)
        assert row_text(tiny_model, Request((5,), policy, options), ids).strip() == text


@pytest.fixture(scope="module")
def byte_model(tiny_model):
    """The tiny model with a byte-level tokenizer, in which a character may be several tokens."""
    from dataclasses import replace

    from unmask.models.tokenizer import learned_tokenizer

    tokenizer = learned_tokenizer(["say more there STOP x"] * 3, 300)
    ends, never = (tokenizer.eos_token_id,), (tokenizer.mask_token_id, tokenizer.pad_token_id)
    special = {"mask_id": tokenizer.mask_token_id, "eos_ids": ends, "never_ids": never}
    return replace(tiny_model, tokenizer=tokenizer, **special)


@pytest.mark.parametrize(
    ("written", "stop", "text"),
    [
        ("héllo<pad> there STOP more", "STOP", "héllo there "),
        ("é<mask>x STOP", "STOP", "éx "),
        ("中文 😀 STOP", "STOP", "中文 😀 "),
        ("say<pad>more", "<pad>", "say"),
        ("say<pad>more", "d>", "say"),
        ("héllo", "l", "hé"),
    ],
)
def test_text_before_a_stop_string_has_whole_characters_and_no_special_tokens(
    byte_model, written, stop, text
):
    ids = byte_model.tokenizer(written, add_special_tokens=False)["input_ids"]
    options = DecodeOptions(max_new_tokens=len(ids), stop=(stop,))
    request = Request((5,), load_policy("confidence:1"), options)
    assert row_text(byte_model, request, ids) == text
    assert count_answer(byte_model, request, ids, [0] * len(ids)) <= len(ids)


@pytest.mark.parametrize(
    "written", ["plain 😀 words# done " * 60, "é" * 300 + "#", "🇩🇪" * 40 + "done#" + "😀" * 90]
)
def test_a_stop_string_is_found_in_few_decodes_of_a_long_text(byte_model, monkeypatch, written):
    """Each costs the whole text before it. What is found is what a search from the end finds."""
    tokenizer, calls = byte_model.tokenizer, []
    ids, decode = tokenizer(written, add_special_tokens=False)["input_ids"], tokenizer.decode
    before = written.partition("#")[0]
    count = max(n for n in range(len(ids)) if before.startswith(decode(ids[:n])))
    monkeypatch.setattr(tokenizer, "decode", lambda *a: calls.append(1) or decode(*a))
    assert find_stop(byte_model, ids, ("#",)) == (count, before[len(decode(ids[:count])) :])
    assert len(calls) < 60 < len(ids)


def test_a_stop_string_does_not_reach_from_one_gap_into_another(tiny_model):
    """Between them stands text of the prompt."""
    prompt = tuple(tiny_model.tokenizer("7 a = 7 b # 6", add_special_tokens=False)["input_ids"])
    holes = (1, 2, 5)  # "a =" and "#"
    options = DecodeOptions(stop=("= #",))
    request = Request(prompt, load_policy("confidence:1"), options, holes=holes)
    row = [prompt[hole] for hole in holes]
    assert row_text(tiny_model, request, row) == "7 a = 7 b # 6"
    assert count_answer(tiny_model, request, row, [0, 1, 2]) == 3
    request = replace(request, options=replace(options, stop=("a =",)))
    assert row_text(tiny_model, request, row) == "7 7 b 6"
    assert count_answer(tiny_model, request, row, [0, 1, 2]) == 0


def test_tokens_of_the_answer_are_those_that_were_revealed():
    model, prompts = unmask.load_model("embedded/chain"), ["7 a +5 b *3 ="]
    cut = unmask.generate(model, prompts, "confidence:4", max_new_tokens=48, max_passes=2)
    revealed = (cut.reveal_step[0] >= 0) & (cut.tokens[0] != model.eos_ids[0])
    assert int(cut.answer_tokens[0]) <= int(revealed.sum()) <= 8
    options = {"max_new_tokens": 48, "block_length": 16}
    whole = unmask.generate(model, prompts, "confidence:1", **options)
    stopped = unmask.generate(model, prompts, "confidence:1", stop=("#",), **options)
    expected = model.tokenizer(stopped.text[0], add_special_tokens=False)["input_ids"]
    assert int(stopped.answer_tokens[0]) == len(expected) < int(whole.answer_tokens[0])


def test_the_limit_of_passes_leaves_masks(tiny_model):
    options = {"max_new_tokens": 8, "block_length": 4}
    whole = unmask.generate(tiny_model, [[5, 6]], "confidence:1", **options)
    cut = unmask.generate(tiny_model, [[5, 6]], "confidence:1", max_passes=3, **options)
    assert cut.nfe.tolist() == [3] and (cut.reveal_step >= 0).sum() == 3
    assert ((cut.tokens == tiny_model.mask_id) == (cut.reveal_step < 0)).all()
    shown = cut.reveal_step >= 0
    assert torch.equal(cut.tokens[shown], whole.tokens[shown])
