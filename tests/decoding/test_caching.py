"""KV caching: exact where it refreshes at every step, and between refreshes the approximation that
it says it is."""

import json
import random

import pytest
import torch

from tests.decoding.test_thousand import SPECS, small_model
from tests.effort import cases
from tests.reference.decode import RULES
from tests.typechecks import check_types
from unmask import UnmaskError, generate, load_policy
from unmask.cli import main
from unmask.decoding import decode
from unmask.policies import LearnedPolicy
from unmask.policies.network import NetworkConfig, PolicyNetwork

KINDS = ("prefix", "dual")


def draw(model, seed):
    """Weights of a random model, and prompts, sampler and options of a random call."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for weight in model.network.parameters():
        if weight.ndim == 2:
            weight.normal_(std=0.5)
    length = rng.randint(2, 12)
    prompts = [[rng.randrange(4, 36) for _ in range(rng.randint(2, 20))] for _ in range(4)]
    options = {
        "max_new_tokens": length,
        "block_length": rng.randint(1, length),
        "batch_size": rng.randint(1, 4),
    }
    return prompts, rng.choice(SPECS), options


def same(a, b):
    return all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("tokens", "nfe", "reveal_step")
    )


@pytest.mark.parametrize("shift", [False, True])
def test_with_a_refresh_at_every_step_a_cache_changes_nothing(shift):
    model = small_model(37, 2, 2, shift)
    for seed in range(cases(10, 80)):
        check_types(seed < 3)
        prompts, spec, options = draw(model, seed)
        plain = decode(model, prompts, load_policy(spec), **options)
        for kind in KINDS:
            policy, cache = load_policy(spec), {"cache": kind, "cache_refresh": 1}
            assert same(decode(model, prompts, policy, **cache, **options), plain), (seed, options)


@pytest.mark.parametrize("network", [NetworkConfig(), NetworkConfig(hidden=16)])
def test_a_learned_policy_sees_the_same_with_a_refresh_at_every_step(network):
    model = small_model(37, 2, 2, False)
    for seed in range(cases(6, 40)):
        check_types(seed < 2)
        prompts, _, options = draw(model, seed)
        policy = LearnedPolicy(PolicyNetwork(network).eval(), temperature=0.5)
        plain = decode(model, prompts, policy, **options)
        for kind in KINDS:
            cache = {"cache": kind, "cache_refresh": 1}
            assert same(decode(model, prompts, policy, **cache, **options), plain), (seed, options)


def test_with_one_layer_nothing_is_approximated():
    """Keys and values of a first layer depend on their own token alone, and within a block only
    tokens of the block change."""
    model = small_model(37, 1, 2, False)
    saved, count = 0, cases(10, 80)
    for seed in range(count):
        check_types(seed < 3)
        prompts, spec, options = draw(model, seed)
        plain = decode(model, prompts, load_policy(spec), **options)
        for kind in KINDS:
            cached = decode(model, prompts, load_policy(spec), cache=kind, **options)
            assert same(cached, plain), (seed, spec, kind, options)
        saved += int(plain.nfe.sum())
    assert saved > count * 8


def reference_row(model, prompt, choose, length, block_length, kind, refresh):
    """One row with a cache, as one would explain it: a whole forward at every step, in which each
    layer finds at the positions that are not forwarded what it found there at the last refresh."""
    layers, found, state = model.network.model.layers, {}, {"queries": None}

    def enter(layer, arguments, _=None):
        hidden = arguments[0]
        if state["queries"] is None:
            found[id(layer)] = hidden
            return None
        mixed = found[id(layer)].clone()
        mixed[:, state["queries"]] = hidden[:, state["queries"]]
        return (mixed, *arguments[1:])

    hooks = [layer.register_forward_pre_hook(enter) for layer in layers]
    y, revealed, step, since, last_block = [None] * length, [-1] * length, 0, 0, None
    p_all = None
    while None in y and step < length:
        block = y.index(None) // block_length
        whole = block != last_block or (refresh is not None and since >= refresh)
        first, last = (
            len(prompt) + block * block_length,
            len(prompt) + min((block + 1) * block_length, length),
        )
        queries = set(range(first, last if kind == "dual" else len(prompt) + length))
        if model.shift:
            queries |= {i - 1 for i in range(first, last)}
        state["queries"] = None if whole else sorted(queries)
        tokens = torch.tensor(
            [[*prompt, *(model.mask_id if token is None else token for token in y)]]
        )
        logits = model.logits(tokens, torch.ones_like(tokens))[0, len(prompt) :].double()
        logits[:, list(model.never_ids)] = -torch.inf
        fresh = logits.softmax(-1)
        p_all = fresh if p_all is None else p_all
        for k in range(length):
            source = len(prompt) + k - int(model.shift)
            if whole or source in queries:
                p_all[k] = fresh[k]
        since, last_block = (1 if whole else since + 1), block
        top = p_all.sort(-1, descending=True).values
        entropy = -(p_all * p_all.clamp(min=1e-300).log()).sum(-1)
        eligible = [k for k in range(length) if y[k] is None and k // block_length == block]
        chosen = choose(
            top[:, 0].tolist(), (top[:, 0] - top[:, 1]).tolist(), entropy.tolist(), eligible, step
        )
        for k in chosen:
            y[k], revealed[k] = int(p_all[k].argmax()), step
        step += 1
    for hook in hooks:
        hook.remove()
    return [model.mask_id if token is None else token for token in y], step, revealed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shift", [False, True])
def test_between_refreshes_other_positions_stand_as_they_were(kind, shift):
    model = small_model(37, 3, 2, shift)
    different = 0
    for seed in range(cases(10, 80)):
        check_types(seed < 3)
        prompts, spec, options = draw(model, seed)
        name, value = spec.split(":")
        choose = RULES[name](int(value) if name in ("confidence", "margin") else float(value))
        refresh = random.Random(seed).choice([None, 2, 3])
        cached = decode(
            model, prompts, load_policy(spec), cache=kind, cache_refresh=refresh, **options
        )
        for row, prompt in enumerate(prompts):
            arguments = (options["max_new_tokens"], options["block_length"], kind, refresh)
            tokens, nfe, revealed = reference_row(model, prompt, choose, *arguments)
            ours = (
                cached.tokens[row].tolist(),
                int(cached.nfe[row]),
                cached.reveal_step[row].tolist(),
            )
            assert ours == (tokens, nfe, revealed), (seed, spec, options, refresh, row)
        different += not same(cached, decode(model, prompts, load_policy(spec), **options))
    assert different > 0, "no case shows the approximation"


def test_fewer_positions_are_forwarded(tiny_model):
    prompts, widths = [[5, 6, 7, 8, i] for i in range(3)], []
    hook = tiny_model.network.base_model.register_forward_pre_hook(
        lambda module, arguments, keywords: widths.append(keywords["input_ids"].numel()),
        with_kwargs=True,
    )
    totals = {}
    for kind in (None, *KINDS):
        widths.clear()
        decode(
            tiny_model,
            prompts,
            load_policy("confidence:1"),
            max_new_tokens=32,
            block_length=8,
            cache=kind,
        )
        totals[kind] = sum(widths)
    hook.remove()
    assert totals["dual"] < totals["prefix"] < totals[None]
    assert totals["dual"] < totals[None] / 2


def test_what_cannot_be_cached_is_refused(tiny_model):
    for options, says in (
        ({"cache": "half"}, "prefix or dual"),
        ({"cache_refresh": 2}, "without cache"),
        ({"cache": "dual", "cache_refresh": 0}, "at least 1"),
        ({"cache": "dual", "cfg_scale": 1.0}, "guidance"),
    ):
        with pytest.raises(UnmaskError, match=says):
            generate(tiny_model, [[5, 6]], "confidence:1", max_new_tokens=8, **options)


def test_the_commands_take_a_cache(tiny_dir, tmp_path, capsys):
    common = (
        "--model",
        str(tiny_dir),
        "--block-lengths",
        "8",
        "--cache",
        "dual",
        "--samplers",
        "confidence:4",
        "--prompts",
        "5",
    )
    assert main(["evaluate", *common, "--out", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["cache"] == "dual" and summary["points"][0]["nfe"] == 12
    assert (
        main(
            [
                "generate",
                "7 a +5 =",
                "--model",
                str(tiny_dir),
                "--cache",
                "prefix",
                "--block-length",
                "8",
            ]
        )
        == 0
    )
    assert (
        main(
            [
                "generate",
                "7 a +5 =",
                "--model",
                str(tiny_dir),
                "--cache",
                "prefix",
                "--cfg-scale",
                "1",
            ]
        )
        == 2
    )
    assert "guidance" in capsys.readouterr().err
