"""Block-causal models: exact caching against whole forwards (invariant 8), the other invariants,
and the loops of the families."""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import unmask
from tests.decoding.test_rows import learned
from tests.decoding.test_thousand import SPECS, small_model
from tests.effort import cases
from tests.models.checkpoints import write
from tests.reference.decode import RULES, block_diffusion_loop, decode_block_row
from tests.typechecks import check_types
from unmask import UnmaskError, load_policy
from unmask.decoding import DecodeOptions, Engine, Recorder, Request, decode, decode_steps, finish
from unmask.policies import current_block


def draw_weights(model, seed):
    torch.manual_seed(seed)
    for weight in model.network.parameters():
        if weight.ndim == 2:
            weight.normal_(std=0.5)


def run_engine(model, requests, slots):
    """The result of each request, decoded side by side."""
    engine = Engine(model, slots)
    for request in requests:
        engine.submit(request)
    results = {}
    while (step := engine.step()) is not None:
        results |= {result.ticket: result for result in step.results}
    return [results[i] for i in range(len(requests))], engine.cost


def outcome(result):
    return result.tokens.tolist(), result.nfe, result.reveal_step.tolist()


def rule_of(spec):
    name, value = spec.split(":")
    return RULES[name](int(value) if name in ("confidence", "margin") else float(value))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("vocabulary", "layers", "heads"), [(37, 2, 2), (64, 1, 1)])
def test_caching_decides_what_whole_forwards_decide(vocabulary, layers, heads, causal):
    """Rows of random models, blocks, prompts, lengths and samplers: 320, and 5,120 in a thorough
    run."""
    plain, ended, longest = small_model(vocabulary, layers, heads, False), 0, 0
    if layers > 1:
        # In fp32 one of these confidences is as near to λ as a CPU's rounding reaches.
        plain.network.double()
    for seed in range(cases(10, 160)):
        check_types(seed < 3)
        rng = random.Random(f"{seed}/{vocabulary}")
        draw_weights(plain, seed)
        model = replace(
            plain, attention_block=rng.choice([1, 2, 3, 4, 5, 8]), causal_context=causal
        )
        requests, specs = [], []
        for _ in range(8):
            size, length = rng.randint(1, 14), rng.randint(1, 16)
            prompt = tuple(rng.randrange(1, vocabulary - 1) for _ in range(size))
            if requests and rng.random() < 0.3:
                prompt = rng.choice(requests).prompt
            specs.append(rng.choice(SPECS))
            options = DecodeOptions(max_new_tokens=length)
            requests.append(Request(prompt, load_policy(specs[-1]), options))
        results, cost = run_engine(model, requests, rng.randint(1, 8))
        for request, spec, result in zip(requests, specs, results, strict=True):
            expected = decode_block_row(model, list(request.prompt), rule_of(spec), request.length)
            assert outcome(result) == expected, (seed, spec, model.attention_block, request)
            ended += -1 in expected[2]
            longest = max(longest, result.nfe - request.length)
        assert cost.rows <= sum(result.nfe for result in results) + len(requests)
    assert ended > 1, "few texts end before their last block"
    assert longest > 0, "no row needs passes for positions behind its answer"


def test_a_causal_context_is_another_model():
    """Else the test above could not fail. Blocks begin behind the prompt, whatever its length."""
    plain = replace(small_model(37, 2, 2, False), attention_block=4)
    causal, different = replace(plain, causal_context=True), 0
    for seed in range(10):
        draw_weights(plain, seed)
        prompt = [5, 6, 7, 8, 9, 10, 11, 12][: 4 if seed % 2 else 8]
        runs = [
            decode(m, [prompt], load_policy("confidence:1"), max_new_tokens=8)
            for m in (plain, causal)
        ]
        different += not torch.equal(runs[0].tokens, runs[1].tokens)
    assert different > 5
    steps = decode(causal, [[5, 6, 7]], load_policy("confidence:4"), max_new_tokens=8, eos="never")
    assert steps.reveal_step[0].tolist() == [0] * 4 + [1] * 4


@given(seed=st.integers(0, 10**6), data=st.data())
def test_rows_do_not_depend_on_their_mates(seed, data):
    """Greedy and drawn tokens, heuristics and learned policies, any lengths and options."""
    check_types(seed % 3 == 0)
    rng = random.Random(seed)
    model = replace(
        small_model(37, 2, 2, False),
        attention_block=rng.choice([1, 3, 4, 8]),
        causal_context=rng.random() < 0.5,
    )
    draw_weights(model, seed)
    policies = [load_policy(spec) for spec in (*SPECS, "random:1", "random:2")]
    policies += [learned(), learned(1, fallback=False), learned(2, action="plackett-luce")]
    requests = []
    for i in range(7):
        options = DecodeOptions(
            max_new_tokens=rng.randint(1, 13),
            temperature=rng.choice([0.0, 0.0, 0.8]),
            stop_at_eos=rng.random() < 0.3,
            eos=rng.choice(["free", "never", "last"]),
            max_passes=rng.choice([None, None, 3]),
        )
        prompt = tuple(rng.randrange(4, 36) for _ in range(rng.randint(1, 17)))
        if i > 4:
            prompt, options = requests[i - 5].prompt, replace(options, temperature=0.0)
        requests.append(Request(prompt, rng.choice(policies), options, key=i))
    together, _ = run_engine(model, requests, 7)
    order = rng.sample(range(7), 7)
    shuffled, _ = run_engine(model, [requests[i] for i in order], data.draw(st.integers(1, 6)))
    for place, i in enumerate(order):
        assert outcome(shuffled[place]) == outcome(together[i]), (seed, i)
    alone, _ = run_engine(model, [requests[0]], 1)
    assert outcome(alone[0]) == outcome(together[0])


@given(spec=st.sampled_from([*SPECS, "learned"]), seed=st.integers(0, 10**6))
def test_a_step_reveals_masked_positions_of_the_current_block(spec, seed):
    rng = random.Random(seed)
    size, length = rng.choice([1, 3, 4]), rng.randint(1, 10)
    model = replace(small_model(37, 2, 2, False), attention_block=size)
    draw_weights(model, seed)
    prompts = [[rng.randrange(4, 36) for _ in range(rng.randint(1, 9))] for _ in range(4)]
    policy = learned() if spec == "learned" else load_policy(spec)
    seen = {i: torch.full((length,), model.mask_id) for i in range(4)}

    def check(step):
        for row, tokens, fresh in zip(step.rows.tolist(), step.tokens, step.fresh, strict=True):
            before, given = seen[row], len(prompts[row]) % size
            masked = torch.cat([torch.zeros(given, dtype=torch.bool), before == model.mask_id])
            eligible = current_block(masked[None], size)[0, given:]
            assert not (fresh & ~eligible).any()
            kept = ~fresh & (before != model.mask_id)
            assert torch.equal(tokens[kept], before[kept])
            seen[row] = tokens.clone()

    options = {"max_new_tokens": length, "batch_size": 3, "seed": seed}
    steps = decode_steps(model, prompts, policy, recorder=Recorder(), **options)
    generation = finish(steps, check)
    assert (generation.tokens != model.mask_id).all()
    masks = [-(-(len(p) + length) // size) * size - len(p) for p in prompts]
    assert all(1 <= n <= most for n, most in zip(generation.nfe.tolist(), masks, strict=True))
    decisions = generation.transitions
    assert torch.equal(torch.bincount(decisions.row), generation.nfe)
    assert decisions.action.shape[1] == size == decisions.observation.length
    assert (decisions.observation.step < size).all()
    assert (decisions.action > 0).any(1).all(), "every step reveals something"
    for row in range(4):
        assert decisions.passes[decisions.row == row].tolist() == list(range(generation.nfe[row]))


@pytest.mark.parametrize("family", ["sdar", "sdar_moe", "llada2_moe"])
def test_decodes_equal_the_families_loops(family, tmp_path):
    model = unmask.load_model(
        write(family, tmp_path / "model", block_size=4).directory, dtype=torch.float32
    )
    rng, passes = random.Random(0), []
    for _ in range(6):
        prompt = [rng.randrange(6, 40) for _ in range(rng.randint(1, 11))]
        for spec, threshold in (("confidence:1", None), ("threshold:0.6", 0.6)):
            expected = block_diffusion_loop(model, prompt, 10, model.attention_block, threshold)
            ours = unmask.generate(model, [prompt], spec, max_new_tokens=10)
            assert (ours.tokens[0].tolist(), int(ours.nfe[0])) == expected
            passes.append(expected[1])
    assert len(set(passes)) > 2
    half = block_diffusion_loop(model, [7, 8, 9, 10], 8, 2)
    ours = unmask.generate(model, [[7, 8, 9, 10]], "confidence:2", max_new_tokens=8)
    assert (ours.tokens[0].tolist(), int(ours.nfe[0])) == half


def test_a_context_is_stored_as_it_is_read_causally(tmp_path):
    """Nemotron-Labs-Diffusion: positions far enough for YaRN, prompts of any length."""
    checkpoint = write("nemotron", tmp_path / "model")
    model = unmask.load_model(checkpoint.directory, dtype=torch.float64)
    assert model.causal_context and model.attention_block == 4
    rng, passes = random.Random(0), []
    for i in range(8):
        prompt = [rng.randrange(6, 40) for _ in range(rng.randint(1, 19))]
        spec = ("confidence:1", "threshold:0.6")[i % 2]
        expected = decode_block_row(model, prompt, rule_of(spec), 10)
        ours = unmask.generate(model, [prompt], spec, max_new_tokens=10)
        found = ours.tokens[0].tolist(), int(ours.nfe[0]), ours.reveal_step[0].tolist()
        assert found == expected
        passes.append(expected[1])
    assert len(set(passes)) > 2


def test_a_block_is_forwarded_alone_and_once_with_the_one_before():
    model = replace(small_model(37, 2, 2, False), attention_block=4)
    draw_weights(model, 0)
    prompts, widths = [[5, 6, 7, 8, 9, 10, 11, 12, 13]] * 6, []
    hook = model.network.base_model.register_forward_pre_hook(
        lambda module, arguments, keywords: widths.append(tuple(keywords["input_ids"].shape)),
        with_kwargs=True,
    )
    run = decode(model, prompts, load_policy("confidence:1"), max_new_tokens=11, eos="never")
    hook.remove()
    assert run.nfe.tolist() == [11] * 6
    # The prompt's full blocks once for all six; then the first block, whose first token is the
    # prompt's last one; then each block with the one before it, and alone. Fewer than 8 positions
    # are computed as 8.
    assert widths[0] == (1, 8)
    assert [q for _, q in widths[1:]] == [4, 4, 4, 8, 4, 4, 4, 8, 4, 4, 4]
    assert run.cost.positions == sum(rows * q for rows, q in widths)


def test_equal_rows_share_passes_and_part_later():
    """Rows of one prompt with policies of their own part when they reveal different positions, each
    with keys and values of its own."""
    model = replace(small_model(37, 2, 2, False), attention_block=4)
    for seed in range(4):
        check_types(seed == 0)
        draw_weights(model, seed)
        options = DecodeOptions(max_new_tokens=14)
        policy = learned(seed)
        requests = [Request((5, 6, 7, 8, 9), policy, options, key=i // 2) for i in range(8)]
        together, cost = run_engine(model, requests, 8)
        apart = [run_engine(model, [request], 1)[0][0] for request in requests]
        assert [outcome(a) for a in together] == [outcome(a) for a in apart]
        assert cost.rows < sum(result.nfe for result in together)


@pytest.mark.parametrize("kind", [None, "prefix", "dual"])
def test_a_pass_that_fails_leaves_nothing_that_counts_as_stored(monkeypatch, kind):
    model = replace(small_model(37, 2, 2, False), attention_block=None if kind else 4)
    draw_weights(model, 0)
    options = DecodeOptions(max_new_tokens=9, cache=kind)
    request = Request((5, 6, 7, 8, 9), load_policy("confidence:1"), options)
    (expected,), _ = run_engine(model, [request], 1)
    engine = Engine(model, 1)
    engine.submit(request)
    with monkeypatch.context() as broken:

        def fail(*arguments):
            raise MemoryError

        broken.setattr(type(model), "hidden_at", fail)
        with pytest.raises(MemoryError):
            engine.step()
    results = []
    while (step := engine.step()) is not None:
        results += step.results
    assert outcome(results[0]) == outcome(expected)


def test_memory_grows_with_the_blocks_that_are_open():
    model = replace(small_model(37, 2, 2, False), attention_block=4)
    draw_weights(model, 3)
    engine = Engine(model, 2)
    options = DecodeOptions(max_new_tokens=200, eos="never")
    engine.submit(Request((5, 6), load_policy("confidence:4"), options))
    widths = []
    while engine.step() is not None:
        blocks = engine.proposer.blocks
        widths.append(blocks.store.width if blocks is not None else 0)
    assert widths[0] == 16 and widths[-1] == 208
    assert all(width <= 1.25 * 4 * (i + 1) + 16 for i, width in enumerate(widths))


def test_what_a_block_causal_model_cannot_do_is_refused(monkeypatch):
    model = replace(small_model(37, 2, 2, False), attention_block=4)
    for options, says in (
        ({"block_length": 8}, "own blocks of 4"),
        ({"block_length": 2}, "own blocks of 4"),
        ({"cache": "dual"}, "always cached"),
        ({"cfg_scale": 1.0}, "guidance"),
    ):
        with pytest.raises(UnmaskError, match=says):
            decode(model, [[5, 6]], load_policy("confidence:1"), max_new_tokens=8, **options)
    with pytest.raises(UnmaskError, match="full attention"):
        decode(model, [[5, 2, 6]], load_policy("confidence:1"), holes=[[1]])
    decode(model, [[5, 6]], load_policy("confidence:1"), max_new_tokens=8, block_length=4)
    monkeypatch.setattr("unmask.memory.free_memory", lambda device: 10_000)
    with pytest.raises(UnmaskError, match=r"2 at a time, with canvases of 64 .* batch_size"):
        decode(model, [[5, 6]] * 2, load_policy("confidence:1"), max_new_tokens=60)


def test_texts_end_after_the_block_that_holds_an_end():
    """Also where the prompt's own last block holds the end of a turn."""
    model = replace(small_model(37, 2, 2, False), attention_block=4)
    end = model.eos_ids[0]
    draw_weights(model, 1)
    early = late = 0
    for seed in range(12):
        draw_weights(model, seed)
        prompt = [5, 6, 7, 8, end, 9]
        run = decode(model, [prompt], load_policy("confidence:1"), max_new_tokens=18)
        tokens, steps = run.tokens[0].tolist(), run.reveal_step[0].tolist()
        if end in tokens:
            last = (2 + tokens.index(end)) // 4 * 4 + 2
            assert all(step >= 0 for step in steps[:last]) and set(steps[last:]) <= {-1}
            assert set(tokens[last:]) <= {end}
            assert run.nfe[0] == last
            options = {"max_new_tokens": 18, "stop_at_eos": True}
            sooner = decode(model, [prompt], load_policy("confidence:1"), **options)
            assert sooner.nfe[0] <= run.nfe[0] and sooner.text == run.text
            early += int(sooner.nfe[0] < run.nfe[0])
        else:
            late += 1
    assert early and late
