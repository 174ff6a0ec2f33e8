"""Invariants 1–3, 5 and 6 of the decoder, and the decoder against a slow re-statement."""

import random
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import unmask
from tests.reference.decode import RULES, decode_row
from tests.typechecks import check_types
from unmask.decoding import Recorder, decode, decode_steps, finish
from unmask.decoding.proposer import group_by_width
from unmask.policies import LearnedPolicy, NetworkConfig, PolicyNetwork, current_block, load_policy

SPECS = [
    "random:1",
    "random:3",
    "confidence:1",
    "confidence:4",
    "threshold:0.3",
    "threshold:0.9",
    "factor:1.5",
    "margin:2",
    "entropy:0.8",
]


def some_prompts(seed, n):
    rng = random.Random(seed)
    return [[rng.randrange(4, 30) for _ in range(rng.randint(1, 13))] for _ in range(n)]


def learned(seed=0, **settings):
    torch.manual_seed(seed)
    network = PolicyNetwork(NetworkConfig(width=16, heads=2, mlp=32))
    torch.nn.init.normal_(network.modulation.weight, std=0.3)
    torch.nn.init.normal_(network.head.weight, std=0.5)
    return LearnedPolicy(network, **settings)


def policy_of(spec):
    return learned() if spec == "learned" else load_policy(spec)


def same(a, b, rows_a, rows_b):
    return all(
        torch.equal(getattr(a, x)[rows_a], getattr(b, x)[rows_b])
        for x in ("tokens", "nfe", "reveal_step")
    )


@given(
    spec=st.sampled_from([*SPECS, "learned"]),
    seed=st.integers(0, 10**6),
    length=st.integers(1, 14),
    data=st.data(),
)
def test_rows_do_not_depend_on_batch_size_order_padding_or_mates(
    tiny_model, spec, seed, length, data
):
    check_types(seed % 3 == 0)
    block_length = data.draw(st.integers(1, length))
    batch_size = data.draw(st.integers(1, 9))
    temperature = data.draw(st.sampled_from([0.0, 0.7]))
    prompts = some_prompts(seed, 7)
    prompts += [prompts[0], prompts[1]]  # equal rows, as in a group
    order = list(range(len(prompts)))
    random.Random(seed).shuffle(order)
    options = {
        "max_new_tokens": length,
        "block_length": block_length,
        "temperature": temperature,
        "seed": seed,
    }
    together = decode(tiny_model, prompts, policy_of(spec), batch_size=9, **options)
    shuffled = decode(
        tiny_model, [prompts[i] for i in order], policy_of(spec), batch_size=batch_size, **options
    )
    places = {i: order.index(i) for i in range(7) if prompts.count(prompts[i]) == 1}
    assert same(together, shuffled, list(places), list(places.values()))
    alone = decode(tiny_model, [prompts[2]], policy_of(spec), **options)
    assert same(alone, together, [0], [2]) or prompts.count(prompts[2]) > 1


@given(
    spec=st.sampled_from([*SPECS, "learned"]),
    seed=st.integers(0, 10**6),
    length=st.integers(1, 14),
    data=st.data(),
)
def test_a_step_reveals_eligible_positions_only_and_nothing_revealed_changes(
    tiny_model, spec, seed, length, data
):
    block_length = data.draw(st.integers(1, length))
    prompts = some_prompts(seed, 4)
    seen = {i: torch.full((length,), tiny_model.mask_id) for i in range(4)}

    def check(step):
        for row, tokens, fresh in zip(step.rows.tolist(), step.tokens, step.fresh, strict=True):
            before = seen[row]
            eligible = current_block((before == tiny_model.mask_id)[None], block_length)[0]
            assert not (fresh & ~eligible).any()
            assert fresh.any(), "every step reveals at least one position of an unfinished row"
            assert torch.equal(tokens[~fresh], before[~fresh])
            assert (tokens[fresh] != tiny_model.mask_id).all()
            seen[row] = tokens.clone()

    options = {
        "max_new_tokens": length,
        "block_length": block_length,
        "batch_size": 3,
        "seed": seed,
    }
    generation = finish(
        decode_steps(tiny_model, prompts, policy_of(spec), recorder=Recorder(), **options), check
    )
    assert (generation.tokens != tiny_model.mask_id).all()
    assert (generation.nfe >= 1).all() and (generation.nfe <= length).all()
    assert torch.equal(generation.nfe - 1, generation.reveal_step.amax(1))
    assert torch.equal(torch.bincount(generation.transitions.row), generation.nfe)
    for row in range(4):
        assert torch.equal(seen[row], generation.tokens[row])


@pytest.mark.parametrize("spec", [spec for spec in SPECS if not spec.startswith("random")])
@pytest.mark.parametrize(("length", "block_length"), [(12, 12), (12, 5), (9, 1), (1, 1)])
def test_decoder_equals_the_slow_reference(tiny_model, spec, length, block_length):
    name, value = spec.split(":")
    choose = RULES[name](int(value) if name in ("confidence", "margin") else float(value))
    prompts = some_prompts(length * 100 + block_length, 5)
    generation = decode(
        tiny_model,
        prompts,
        load_policy(spec),
        max_new_tokens=length,
        block_length=block_length,
        batch_size=2,
    )
    for row, prompt in enumerate(prompts):
        tokens, nfe, revealed = decode_row(tiny_model, prompt, choose, length, block_length)
        assert generation.tokens[row].tolist() == tokens
        assert generation.nfe[row] == nfe
        assert generation.reveal_step[row].tolist() == revealed


def test_without_fallback_an_empty_step_costs_one_nfe_but_no_forward(tiny_model):
    never = learned(fallback=False)
    torch.nn.init.zeros_(never.network.head.weight)
    torch.nn.init.constant_(never.network.head.bias, -30.0)
    generation = decode(tiny_model, [[5, 6]] * 3, never, max_new_tokens=6)
    assert generation.nfe.tolist() == [6, 6, 6]
    assert (generation.tokens == tiny_model.mask_id).all() and (generation.reveal_step == -1).all()
    assert generation.text == ["", "", ""]
    assert generation.cost.rows == 1  # three equal rows, never changed


def test_equal_rows_are_forwarded_once_and_counted_each(tiny_model):
    generation = decode(tiny_model, [[5, 6, 7]] * 8, load_policy("confidence:1"), max_new_tokens=5)
    assert generation.nfe.tolist() == [5] * 8
    assert generation.cost.rows == 5


def test_finished_rows_leave_and_waiting_rows_take_their_place(tiny_model):
    prompts = some_prompts(3, 12)
    options = {"max_new_tokens": 10, "batch_size": 4}
    generation = decode(tiny_model, prompts, load_policy("threshold:0.3"), **options)
    ideal = -(-int(generation.nfe.sum()) // 4)
    assert len(set(generation.nfe.tolist())) > 1, (
        "the rows must differ for this test to mean anything"
    )
    assert generation.cost.model_calls <= ideal + 10  # only the last rows leave places empty


def test_same_seed_same_result_other_seed_other_result(tiny_model):
    def tokens(seed):
        return decode(
            tiny_model, some_prompts(0, 6), load_policy("random:1"), max_new_tokens=12, seed=seed
        ).reveal_step

    assert torch.equal(tokens(1), tokens(1))
    assert not torch.equal(tokens(1), tokens(2))


def test_sampling_at_temperature_follows_the_models_distribution(tiny_model):
    prompt, n = [9, 5, 17], 3000
    logits = tiny_model.logits(
        torch.tensor([[*prompt, tiny_model.mask_id]]), torch.ones(1, 4, dtype=torch.long)
    )[0, -1].clone()
    logits[list(tiny_model.never_ids)] = -torch.inf
    p = (logits / 2.0).softmax(-1)
    drawn = decode(
        tiny_model,
        [prompt] * n,
        load_policy("confidence:1"),
        max_new_tokens=1,
        temperature=2.0,
        batch_size=500,
    ).tokens[:, 0]
    frequency = torch.bincount(drawn, minlength=len(p)) / n
    assert ((frequency - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-3).all()


@pytest.mark.parametrize("spec", ["threshold:0.6", "entropy:0.8", "margin:2", "random:2"])
def test_a_heuristic_in_blocks_of_its_own_is_semi_autoregressive(tiny_model, spec):
    prompts = [[5, 6, 7], [8, 9], [5, 6, 7, 8, 9]]
    for own in (1, 3, 5):
        inside = decode(
            tiny_model,
            prompts,
            load_policy(f"{spec}@block_length={own}"),
            max_new_tokens=11,
            seed=3,
        )
        outside = decode(
            tiny_model, prompts, load_policy(spec), max_new_tokens=11, block_length=own, seed=3
        )
        assert torch.equal(inside.tokens, outside.tokens)
        assert torch.equal(inside.reveal_step, outside.reveal_step)


@given(seed=st.integers(0, 10**6), length=st.integers(1, 20), data=st.data())
def test_current_block_is_the_leftmost_with_masks(seed, length, data):
    block_length = data.draw(st.integers(1, length))
    masked = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=length, max_size=length).filter(any))
    )
    block = masked.tolist().index(True) // block_length
    expected = [bool(m) and k // block_length == block for k, m in enumerate(masked)]
    assert current_block(masked[None], block_length)[0].tolist() == expected


def test_prompts_may_be_text_chats_or_tokens(tiny_model):
    text = "7 a +5 b *3 ="
    tokens = tiny_model.tokenizer(text)["input_ids"]
    chat = [{"role": "user", "content": text}]
    generation = unmask.generate(
        tiny_model, [text, chat, tokens], "threshold:0.9", max_new_tokens=8
    )
    assert torch.equal(generation.tokens[0], generation.tokens[1]) and torch.equal(
        generation.tokens[0], generation.tokens[2]
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompts": []}, "no prompts"),
        ({"prompts": "7 a +5 ="}, "list of prompts"),
        ({"prompts": [[999]]}, "token id 999"),
        ({"prompts": ["hello ="]}, "does not know"),
        ({"policy": "nonsense"}, "neither"),
        ({"policy": "threshold:1.5"}, "0 to 1"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"block_length": 9}, "block_length is 9"),
        ({"block_length": 0}, "block_length is 0"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(tiny_model, change, says):
    arguments = {"prompts": ["7 a +5 ="], "policy": "confidence:1", "max_new_tokens": 8} | change
    with pytest.raises(unmask.UnmaskError, match=says) as error:
        unmask.generate(tiny_model, arguments.pop("prompts"), arguments.pop("policy"), **arguments)
    assert "\n" not in str(error.value)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_rows_of_like_width_are_forwarded_together(sizes):
    widths = sorted((16 * size for size in sizes), reverse=True)
    parts = group_by_width(range(len(widths)), widths)
    assert [row for part in parts for row in part] == list(range(len(widths)))
    assert all(
        widths[before[-1]] > widths[after[0]] for before, after in pairwise(parts)
    )  # equal ones never apart: they may share
    assert all(widths[part[0]] * len(part) >= 512 for part in parts[:-1])
    padded = sum(widths[part[0]] - widths[row] for part in parts for row in part)
    assert padded <= sum(widths[0] - width for width in widths)
    assert group_by_width([3, 1, 2], [0, 512, 496, 528]) == [
        [3, 1, 2]
    ]  # 16 and 32 positions are not worth a pass
    assert group_by_width(range(4), [528, 528, 256, 256]) == [[0, 1], [2, 3]]
