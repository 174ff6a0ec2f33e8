"""Log-likelihoods against enumeration: all texts, all masks, all orders."""

import gc
import math
import random
from dataclasses import replace
from functools import partial
from itertools import combinations, permutations, product

import pytest
import torch

from tests.decoding.test_rows import learned
from tests.decoding.test_thousand import small_model
from tests.typechecks import check_types
from unmask import UnmaskError, generate, load_model
from unmask.models.tokenizer import word_tokenizer
from unmask.policies import load_policy
from unmask.scoring import Text, bound_likelihood, encode_pair, exact_likelihood
from unmask.scoring.likelihood import draw_masks, estimate_bound
from unmask.scoring.texts import Question

TOKENS = (1, 4, 5, 6, 7)  # what a small model of 9 tokens may propose


def draw_model(seed, shift=False, block=None):
    model = replace(small_model(9, 2, 2, shift), attention_block=block)
    torch.manual_seed(seed)
    for weight in model.network.parameters():
        if weight.ndim == 2:
            weight.normal_(std=0.6)
    return model


def continue_with(prompt, *continuations):
    n = len(prompt)
    return [Text((*prompt, *c), tuple(range(n, n + len(c)))) for c in continuations]


def log_probs(model, tokens, masked):
    """Log-probabilities at every position of a canvas, by the public `logits`."""
    canvas = torch.tensor([[model.mask_id if i in masked else t for i, t in enumerate(tokens)]])
    logits = model.logits(canvas, torch.ones_like(canvas))[0].double()
    logits[:, list(model.never_ids)] = -torch.inf
    return logits.log_softmax(-1)


def bound_by_enumeration(model, tokens, places):
    """The expectation over l and over all subsets of l tokens, block by block."""
    total, size = 0.0, model.attention_block
    blocks = {}
    for place in places:
        blocks.setdefault(0 if size is None else place // size, []).append(place)
    for block, own in blocks.items():
        end = len(tokens) if size is None else (block + 1) * size
        n = len(own)
        for masked in range(1, n + 1):
            subsets = list(combinations(own, masked))
            for subset in subsets:
                found = log_probs(model, tokens[:end], subset)
                each = sum(found[p, tokens[p]].item() for p in subset)
                total += n / masked * each / (n * len(subsets))
    return total


@pytest.mark.parametrize(("shift", "block"), [(False, None), (True, None), (False, 2), (False, 3)])
def test_the_exact_likelihood_sums_to_one_over_all_texts(shift, block):
    model, prompt = draw_model(3, shift, block), (4, 7, 1)
    texts = continue_with(prompt, *product(TOKENS, repeat=3))
    network = learned()
    orders = ["left-to-right", "confidence:1", "threshold:0.4", "margin:2", "random:1", network]
    values = []
    for order in orders:
        for block_length in (None,) if order == "left-to-right" or block else (None, 2):
            found = exact_likelihood(model, texts, order, block_length=block_length)
            total = math.fsum(math.exp(each.log_likelihood) for each in found)
            assert total == pytest.approx(1, abs=1e-5), (order, block_length)
            values.append(found[7].log_likelihood)
    assert len(set(values)) > 1, "orders do not matter to this model"


def test_a_policy_sees_the_blocks_of_a_block_causal_model_as_in_decoding():
    model = load_model("embedded/chain-blocks", dtype="float32")
    prompt, seen = model.tokenizer("7 a +5 b *3 =")["input_ids"], []

    def from_the_right(observation):
        rest = observation.eligible.flip(1).cumsum(1).flip(1)
        for row in observation.masked.tolist():
            seen.append((observation.masked.shape[1], row))
        return observation.eligible & (rest == 1)

    length = 2 * model.attention_block - len(prompt)
    options = {"max_new_tokens": length, "eos": "never"}
    found = generate(model, [prompt], from_the_right, **options)
    decoded, seen[:] = list(seen), []
    text = encode_pair(model, prompt, found.tokens[0].tolist())
    exact_likelihood(model, [text], from_the_right)
    assert sorted(seen) == sorted(decoded) and len(decoded) == length
    with pytest.raises(UnmaskError, match="in its own blocks of 16, so leave it out"):
        exact_likelihood(model, [text], from_the_right, block_length=8)


@pytest.mark.parametrize(("shift", "block"), [(False, None), (True, None), (False, 2)])
def test_left_to_right_is_the_chain_rule(shift, block):
    model, tokens = draw_model(5, shift, block), (4, 7, 1, 5, 6, 4)
    text = Text(tokens, (2, 3, 4, 5))
    expected = 0.0
    for place in text.places:
        end = len(tokens) if block is None else (place // block + 1) * block
        found = log_probs(model, tokens[:end], range(place, end))
        expected += found[place, tokens[place]].item()
    (found,) = exact_likelihood(model, [text])
    assert found.log_likelihood == pytest.approx(expected, abs=1e-5)
    assert (found.tokens, found.passes, found.standard_error) == (4, 4, 0.0)
    assert found.per_token == found.log_likelihood / 4


@pytest.mark.parametrize(("shift", "block"), [(False, None), (True, None), (False, 2), (False, 3)])
def test_the_bound_is_the_expectation_over_all_masks(shift, block):
    model, tokens, places = draw_model(6, shift, block), (4, 7, 1, 5, 6, 4, 5), (1, 3, 4, 6)
    expected = bound_by_enumeration(model, tokens, places)
    (found,) = bound_likelihood(model, [Text(tokens, places)], samples=16)
    assert found.log_likelihood == pytest.approx(expected, abs=1e-5)
    assert found.standard_error == 0
    if block is None:
        assert found.passes == 15  # every subset once
        drawn = [
            bound_likelihood(model, [Text(tokens, places)], samples=14, seed=seed)[0]
            for seed in range(200)
        ]
        values = torch.tensor([each.log_likelihood for each in drawn])
        errors = torch.tensor([each.standard_error for each in drawn])
        assert values.mean().item() == pytest.approx(
            expected, abs=4 * values.std().item() / len(values) ** 0.5
        )
        # The standard error that is told is the one that there is.
        root_mean_square = errors.square().mean().sqrt().item()
        assert root_mean_square == pytest.approx(values.std().item(), rel=0.2)


def rank_all(order, observation):
    """A policy that accepts everything, in a given order."""
    return torch.tensor([order]) * observation.eligible


def test_the_bound_is_the_mean_over_all_orders():
    """Two ways that share no code: masks weighted by n/l, and the chain rule in every order."""
    model, text = draw_model(8), Text((4, 5, 7, 6), (0, 2, 3))
    means = []
    for order in permutations((1, 2, 3)):
        means.append(exact_likelihood(model, [text], partial(rank_all, order))[0].log_likelihood)
    (bound,) = bound_likelihood(model, [text])
    assert bound.log_likelihood == pytest.approx(sum(means) / 6, abs=1e-5)
    assert max(means) - min(means) > 0.01


def test_strata_vary_less_than_plain_draws():
    model = draw_model(9)
    rng = random.Random(0)
    text = Text(tuple(rng.choice(TOKENS) for _ in range(12)), tuple(range(12)))
    values, plain = [], []
    for seed in range(60):
        values.append(bound_likelihood(model, [text], samples=16, seed=seed)[0].log_likelihood)
        torch.manual_seed(seed)
        masked = torch.randint(1, 13, (16,))
        masks = torch.rand(16, 12).argsort(1).argsort(1) < masked[:, None]
        rows = [[i for i in range(12) if row[i]] for row in masks.tolist()]
        sums = [
            log_probs(model, text.tokens, row)[row, [text.tokens[i] for i in row]].sum()
            for row in rows
        ]
        plain.append(estimate_bound(12, masks.sum(1), torch.stack(sums), 16)[0])
    values, plain = torch.tensor(values), torch.tensor(plain)
    spread = (values.var() + plain.var()).sqrt().item() / 60**0.5
    assert values.mean().item() == pytest.approx(plain.mean().item(), abs=4 * spread)
    assert values.std() < plain.std()


def test_every_count_of_masks_is_equally_likely():
    text = Text(tuple(range(1, 11)), tuple(range(10)))
    counts = torch.zeros(11)
    places = torch.zeros(10)
    for seed in range(100):
        masks = draw_masks(text, 20, seed)
        counts += masks.sum(1).bincount(minlength=11)
        places += masks.float().sum(0)
    assert counts[0] == 0
    assert counts[1:].tolist() == [200] * 10  # a stratum each
    assert (places / 2000 - 0.55).abs().max() < 0.05


def test_memory_does_not_grow_with_the_texts():
    """Of questions, each of which holds a whole canvas, there are a few batches at a time."""
    model, living = draw_model(10), []

    def count(*_):
        living.append(sum(type(each) is Question for each in gc.get_objects()))

    model.network.get_input_embeddings().register_forward_hook(count)
    texts = [Text((4, 5, 6, 7, 1, 4, 5, 6), tuple(range(8)))] * 60
    gc.freeze()  # of all objects of the process, only new ones are looked at
    try:
        for score in (partial(bound_likelihood, samples=8), exact_likelihood):
            found = score(model, texts, batch_size=4)
            assert len(set(found)) == 1 and len(living) > 50
            assert max(living) <= 2 * 4 * 4, score
            living.clear()
    finally:
        gc.unfreeze()


def test_rows_do_not_depend_on_their_mates():
    model, rng = draw_model(10), random.Random(1)
    texts = []
    for _ in range(9):
        size = rng.randint(2, 30)
        tokens = tuple(rng.choice(TOKENS) for _ in range(size))
        texts.append(Text(tokens, tuple(sorted(rng.sample(range(size), rng.randint(1, size))))))
    for score in (
        lambda rows, size: bound_likelihood(model, rows, samples=8, batch_size=size),
        lambda rows, size: exact_likelihood(model, rows, batch_size=size),
        lambda rows, size: exact_likelihood(model, rows, "random:1", batch_size=size),
        lambda rows, size: exact_likelihood(model, rows, "confidence:1", batch_size=size),
    ):
        alone = [score([text], 1)[0] for text in texts]
        assert score(texts, 4) == alone
        assert score(texts[::-1], 64) == alone[::-1]


@pytest.mark.parametrize(("shift", "block"), [(False, None), (True, None), (False, 2)])
def test_an_answer_on_a_canvas_is_filled_up_with_ends_of_text(shift, block):
    model, prompt, length = draw_model(11, shift, block), [4, 7, 1], 3
    model = replace(model, tokenizer=word_tokenizer(["a", "b", "c", "d", "e"]))
    (end,) = model.eos_ids
    whole = continue_with(tuple(prompt), *product(TOKENS, repeat=length))
    assert end in TOKENS
    tables = {
        "bound": {
            text.targets: bound_by_enumeration(model, text.tokens, text.places) for text in whole
        }
    }
    for order in ("left-to-right", "confidence:1"):
        found = exact_likelihood(model, whole, order)
        tables[order] = {
            text.targets: each.log_likelihood for text, each in zip(whole, found, strict=True)
        }
        total = math.fsum(map(math.exp, tables[order].values()))
        assert total == pytest.approx(1, abs=1e-5)  # of all canvases
    answers = [list(each) for n in (1, 2, 3) for each in product((4, 6, 7), repeat=n)]
    texts = [encode_pair(model, prompt, answer, length) for answer in answers]
    alone = [encode_pair(model, prompt, answer) for answer in answers]
    for kind, table in tables.items():
        score = bound_likelihood if kind == "bound" else partial(exact_likelihood, order=kind)
        padded = [each.log_likelihood for each in score(model, texts)]
        for answer, text, value in zip(answers, texts, padded, strict=True):
            targets = (*answer, *[end] * (length - len(answer)))
            assert text.given == tuple(prompt) and text.targets == targets
            assert value == pytest.approx(table[targets], abs=1e-5)
        assert padded[0] != pytest.approx(score(model, alone)[0].log_likelihood, abs=1e-3)
    with pytest.raises(UnmaskError, match="has 4 tokens and max_new_tokens is 3; give at least 4"):
        encode_pair(model, prompt, [4, 5, 6, 7], length)
    with pytest.raises(UnmaskError, match="max_new_tokens is 0"):
        encode_pair(model, prompt, [4], 0)
    with pytest.raises(UnmaskError, match="no tokens"):
        encode_pair(model, prompt, [], length)


def test_the_right_answer_is_likelier_for_a_trained_model():
    model = load_model("embedded/chain", dtype=torch.float32)
    prompt = "7 a +5 b *3 ="
    from unmask import generate

    answer = generate(model, [prompt], "threshold:0.9", max_new_tokens=48).text[0]
    wrong = answer[:-1] + str((int(answer[-1]) + 1) % 10)
    right, other = (encode_pair(model, prompt, " " + text) for text in (answer, wrong))
    for found in (bound_likelihood(model, [right, other]), exact_likelihood(model, [right, other])):
        assert found[0].log_likelihood > found[1].log_likelihood + 1


def test_a_pair_is_tokenized_together():
    model = load_model("embedded/chain", dtype=torch.float32)
    text = encode_pair(model, "7 a +5 = ", "# 2")
    assert text == encode_pair(model, "7 a +5 =", " # 2")
    assert [model.tokenizer.decode([text.tokens[i]]) for i in text.places] == ["#", "2"]
    ids = model.tokenizer("7 a +5 =", add_special_tokens=False)["input_ids"]
    assert encode_pair(model, ids, list(text.targets)) == text
    assert text.given == tuple(ids)
    chat = encode_pair(model, [{"role": "user", "content": "7 a +5 ="}], "# 2")
    assert chat.targets == text.targets
    assert encode_pair(model, "", "# 2").given == ()


def test_arguments_of_the_wrong_kind_are_refused_by_a_sentence():
    check_types(False)
    model, text = draw_model(0), Text((1, 4, 5), (1, 2))
    for score in (bound_likelihood, exact_likelihood):
        for texts, says in (
            ("# 2", "texts is '# 2'; give a list of what encode_pair returns"),
            (text, r"texts is Text\("),
            (None, "texts is None"),
            (["# 2"], "a text is '# 2'; give what encode_pair returns"),
            ([text, Text((1, 9), (0,))], "token id 9; this model's ids are 0 to 8"),
            ([Text((1, -1), (1,))], "token id -1"),
            ([Text(("a", 4), (1,))], "token id 'a'"),
            ([Text((1, 2), (1,))], "holds the token .*, which this model never proposes"),
            ([Text((1, 4), ())], "no tokens"),
        ):
            with pytest.raises(UnmaskError, match=says):
                score(model, texts)
        with pytest.raises(UnmaskError, match="model is 'embedded/chain'"):
            score("embedded/chain", [text])
    with pytest.raises(UnmaskError, match="model is 'embedded/chain'; give one that load_model"):
        encode_pair("embedded/chain", "7 a +5 =", "# 2")
    for places in ((1, 0), (0, 0), (2,), (-1,), (0.0,)):
        with pytest.raises(UnmaskError, match="give rising positions within the text of 2 tokens"):
            Text((4, 5), places)
    with pytest.raises(UnmaskError, match="tokens is 'abc'; give a sequence"):
        Text("abc", (0,))


def test_refusals():
    model = draw_model(0)
    (text,) = continue_with((1,), (4, 5))
    with pytest.raises(UnmaskError, match="even number"):
        bound_likelihood(model, [text], samples=3)
    with pytest.raises(UnmaskError, match="samples is 0"):
        bound_likelihood(model, [text], samples=0)
    with pytest.raises(UnmaskError, match="no texts"):
        bound_likelihood(model, [])
    with pytest.raises(UnmaskError, match="block_length is 0"):
        exact_likelihood(model, [text], load_policy("confidence:1"), block_length=0)
    with pytest.raises(UnmaskError, match="batch_size is 0"):
        exact_likelihood(model, [text], batch_size=0)
    with pytest.raises(UnmaskError, match="policy"):
        exact_likelihood(model, [text], "right-to-left")
    chain = load_model("embedded/chain", dtype=torch.float32)
    with pytest.raises(UnmaskError, match="no tokens"):
        encode_pair(chain, "7 a +5 =", "")
    with pytest.raises(UnmaskError, match="never proposes"):
        encode_pair(chain, "7 a +5 =", "<pad>")
    broken = draw_model(0)
    broken.network.model.embed_tokens.weight[4] = torch.nan
    with pytest.raises(UnmaskError, match="not finite"):
        bound_likelihood(broken, [text])
