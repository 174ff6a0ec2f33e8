"""The algorithm `Unmask`, driven by SGLang's own class for decoding algorithms."""

import importlib
import json
import logging
import shutil
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from tests.decoding.test_engine import learned
from tests.integrations.compare_sglang import Config, compare
from tests.integrations.engines import (
    BLOCK,
    MASK,
    VOCABULARY,
    block_logits,
    block_network,
    modules_of_sglang,
    modules_without_sglang,
    serve,
)
from tests.models.checkpoints import write
from tests.reference.blocks import by_rule, decode_blocks
from tests.reference.decode import RULES
from unmask import UnmaskError, generate, load_model
from unmask.integrations import sglang as plugin
from unmask.integrations.blocks import named_key
from unmask.models.load import EMBEDDED
from unmask.policies import Observation
from unmask.rng import RowGenerator, block_keys, row_keys

NEVER = (0, 1, 7)
LENGTH = 10
PROMPTS = [[5], [6, 9, 12], [8, 8, 8, 8], [4, 31, 5, 22, 9, 10, 13, 14, 30], [17] * 8]
ODD = [[5, MASK, 6], [MASK, MASK, 9, MASK, 11], [MASK, 12, MASK, 31]]  # they hold the mask token


@pytest.fixture(scope="module")
def sglang(sglang_dir):
    """SGLang's module of algorithms, with ours in it."""
    with modules_of_sglang(sglang_dir):
        plugin.register_algorithm()
        yield importlib.import_module("sglang.srt.dllm.algorithm")


@pytest.fixture(scope="module")
def logits():
    return block_logits(block_network())


def algorithm(sglang, first_done_first_out, **values):
    """Made as SGLang makes it, from what it read from the YAML file."""
    config = sglang.DllmConfig(
        "Unmask",
        {"never_ids": list(NEVER), **values},
        BLOCK,
        MASK,
        max_running_requests=8,
        first_done_first_out_mode=first_done_first_out,
    )
    return sglang.get_algorithm(config)


def answers(logits, prompts, choose):
    """Tokens and passes of each prompt, by the slow loop."""
    return [decode_blocks(logits, prompt, LENGTH, BLOCK, MASK, NEVER, choose) for prompt in prompts]


SPECS = ["confidence:1", "confidence:3", "threshold:0.3", "margin:2", "entropy:0.8", "factor:1"]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("first_done_first_out", [True, False])
def test_tokens_and_forwards_are_those_of_a_slow_loop(sglang, logits, spec, first_done_first_out):
    name, _, value = spec.partition(":")
    rule = by_rule(RULES[name](float(value) if "." in value else int(value)))
    prompts = PROMPTS + ODD
    expected = answers(logits, prompts, rule)
    ours = algorithm(sglang, first_done_first_out, policy=spec)
    for most in (1, len(prompts)):
        tokens, forwards = serve(ours, logits, prompts, LENGTH, most)
        assert tokens == [tokens for tokens, _ in expected]
        if most == 1 or first_done_first_out:  # else rows wait for the slowest of their batch
            # One a pass; one more a block, which stores it; one for each whole block of a prompt.
            assert forwards == [
                sum(passes) + len(passes) + len(prompt) // BLOCK
                for prompt, (_, passes) in zip(prompts, expected, strict=True)
            ]


def choose_learned(policy, seed, name):
    """A learned policy in the slow loop, with the random numbers of a request of this name."""
    key = torch.tensor([named_key(seed, name)])

    def choose(start, masked, p, step):
        hidden = torch.tensor([masked])
        top = p.sort(-1, descending=True).values[None, :, : policy.needs.top_k]
        seen = Observation(top, hidden, hidden, torch.tensor([step]), BLOCK)
        action = policy.act(seen, RowGenerator(block_keys(key, torch.tensor([start // BLOCK]))))
        return [i for i in range(BLOCK) if action[0, i] and masked[i]]

    return choose


@pytest.mark.parametrize("kind", [{}, {"inputs": 3, "context": True}, {"conditioned": True}])
def test_learned_policies_decide_as_in_the_slow_loop(sglang, logits, tmp_path, kind):
    learned(3, **kind).save_pretrained(tmp_path)
    values = {"policy": str(tmp_path), "beta": 1.5, "seed": 7}
    values |= {"alpha": 0.5} if "conditioned" in kind else {}
    ours = algorithm(sglang, True, **values)
    policy = ours.decoder.policy
    assert policy.beta == 1.5 and (policy.alpha == 0.5 or not kind.get("conditioned"))
    expected = [
        answers(logits, [prompt], choose_learned(policy, 7, f"request {i}"))[0]
        for i, prompt in enumerate(PROMPTS + ODD)
    ]
    tokens, forwards = serve(ours, logits, PROMPTS + ODD, LENGTH, 3)
    assert tokens == [tokens for tokens, _ in expected]
    assert len(set(forwards)) > 2
    assert serve(algorithm(sglang, False, **values), logits, PROMPTS + ODD, LENGTH, 8)[0] == tokens


@pytest.fixture(scope="module")
def sdar(tmp_path_factory):
    """A tiny SDAR, loaded as users load it."""
    directory = tmp_path_factory.mktemp("models") / "sdar"
    return load_model(write("sdar", directory, block_size=BLOCK).directory, dtype="float32")


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("spec", ["confidence:1", "threshold:0.4", "random:2", "learned"])
def test_sglang_gives_what_generate_gives(sglang, sdar, spec, temperature, tmp_path):
    """Tokens, and forward passes: ours, one more a block, and the whole blocks of the prompt. Drawn
    tokens and learned policies too, where requests have the random keys that `generate` uses."""
    if spec == "learned":
        learned(3, context=True).save_pretrained(tmp_path)
        spec = str(tmp_path)
    prompts = [[7], [8, 9, 10], [11] * 4, [20, 31, 25, 22, 9, 10, 13, 14, 30], [17, 18] * 4]
    found = generate(sdar, prompts, spec, max_new_tokens=LENGTH, temperature=temperature, seed=5)
    values = {"policy": spec, "temperature": temperature, "never_ids": list(sdar.never_ids)}
    config = sglang.DllmConfig("Unmask", values, BLOCK, sdar.mask_id, 8, True)

    def logits(tokens):
        return sdar.logits(torch.tensor([tokens]), torch.ones(1, len(tokens)).long())[0]

    keys = row_keys(prompts, 5)
    fresh = [partial(plugin.BlockState, key) for key in keys]
    ours = sglang.get_algorithm(config)
    for most in (1, 3):
        tokens, forwards = serve(ours, logits, prompts, LENGTH, most, sdar.eos_ids, fresh)
        for i, prompt in enumerate(prompts):
            # Behind a block with an end SGLang stops, and `generate` fills up with ends.
            assert found.tokens[i, : len(tokens[i])].tolist() == tokens[i]
            assert (found.tokens[i, len(tokens[i]) :] == sdar.eos_ids[0]).all()
            whole = len(prompt) // BLOCK
            blocks = -(-(len(prompt) + len(tokens[i])) // BLOCK) - whole
            assert forwards[i] == found.nfe[i] + blocks + whole


def test_a_policy_answers_the_prompts_of_a_task_as_here(sglang_dir, tmp_path):
    shutil.copytree(EMBEDDED / "chain", tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"block_size": 16}))
    learned(0).save_pretrained(tmp_path / "policy")
    config = Config(str(tmp_path / "model"), str(tmp_path / "policy"), prompts=4)
    found = compare(config)
    assert found.differ == 0 and found.passes[0] == found.passes[1] > 1


def test_drawn_tokens_do_not_depend_on_the_batch(sglang, logits):
    values = {"policy": "threshold:0.5", "temperature": 0.9, "top_p": 0.95, "seed": 3}
    prompts = [*PROMPTS, PROMPTS[0]]
    alone = serve(algorithm(sglang, True, **values), logits, prompts, LENGTH, 1)
    assert serve(algorithm(sglang, True, **values), logits, prompts, LENGTH, 4) == alone
    together = serve(algorithm(sglang, False, **values), logits, prompts, LENGTH, 8)
    assert together[0] == alone[0]
    assert alone[0][0] != alone[0][-1]  # equal prompts of different requests draw for themselves
    other = serve(algorithm(sglang, True, **values | {"seed": 4}), logits, prompts, LENGTH, 4)
    assert other[0] != alone[0]


def test_tokens_beyond_the_vocabulary_are_not_proposed(sglang, logits):
    ours = algorithm(sglang, True, policy="threshold:0.2", vocabulary=30, block_size=BLOCK)
    tokens, _ = serve(ours, logits, PROMPTS, LENGTH, 8)
    found = {token for row in tokens for token in row}
    assert found and not found & {MASK, *NEVER, *range(30, VOCABULARY)}


def test_requests_without_names_still_differ(sglang):
    ours = algorithm(sglang, True, policy="random")
    batch = SimpleNamespace(batch_size=3)
    keys = [state.key for _ in range(2) for state in ours.init_step_state(batch)]
    assert len(set(keys)) == 6


def test_a_policy_that_cannot_work_stops_the_server_with_one_sentence(sglang, tmp_path):
    learned(0, hidden=24).save_pretrained(tmp_path)
    with pytest.raises(UnmaskError, match="reads the model's hidden states, and only logits"):
        algorithm(sglang, True, policy=str(tmp_path))
    with pytest.raises(UnmaskError, match="--dllm-algorithm-config sets 'threshold'; known"):
        algorithm(sglang, True, policy="threshold:0.9", threshold=0.5)


def test_the_entry_point_is_found_by_sglangs_own_loader(sglang_dir, tmp_path, monkeypatch):
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    points = project["entry-points"]["sglang.srt.plugins"]
    lines = ["[sglang.srt.plugins]", *(f"{name} = {target}" for name, target in points.items())]
    place = tmp_path / "unmask_of_this_checkout-1.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("Name: unmask-of-this-checkout\nVersion: 1\n")
    (place / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    with modules_of_sglang(sglang_dir):
        importlib.import_module("sglang.srt.plugins").load_plugins()
        algorithms = importlib.import_module("sglang.srt.dllm.algorithm")
    assert algorithms.get_algorithm_cls("Unmask").__name__ == "Unmask"


def warning_of(caplog):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        plugin.register_algorithm()
    (record,) = caplog.records
    return record.getMessage()


def test_other_versions_of_sglang_give_one_warning(caplog):
    with modules_without_sglang():
        sys.modules["sglang"] = None
        assert "Unmask is not available, since SGLang (not installed)" in warning_of(caplog)

        algorithms, base = (ModuleType(f"{plugin.ALGORITHMS}{name}") for name in ("", ".base"))
        algorithms.algo_name_to_cls = {}
        sys.modules |= {module.__name__: module for module in (algorithms, base)}
        base.DllmAlgorithm = type("DllmAlgorithm", (), {"run": lambda self, model_runner: None})
        assert "DllmAlgorithm has no method step" in warning_of(caplog)
        base.DllmAlgorithm.step = lambda self, forward_batch, logits: None
        assert "DllmAlgorithm.step takes forward_batch, logits" in warning_of(caplog)
        assert not algorithms.algo_name_to_cls


def test_the_plug_in_is_light_until_it_is_called():
    code = "import sys, unmask.integrations.sglang; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr
