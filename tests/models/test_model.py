"""Loading and proposing."""

import copy
import dataclasses
import inspect
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import unmask
from tests.typechecks import check_types
from unmask.models import Forward, Sampling
from unmask.models.cache import PaddedKeys
from unmask.models.head import HeadPlan, TokenRules, best_tokens, tiles
from unmask.models.load import EMBEDDED


@pytest.fixture
def broken(tiny_dir, tmp_path):
    return Path(shutil.copytree(tiny_dir, tmp_path / "broken"))


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_damaged_and_unfit_checkpoints_are_refused(broken):
    weights = broken / "model.safetensors"
    whole = weights.read_bytes()

    def says(message):
        with pytest.raises(unmask.UnmaskError, match=message) as error:
            unmask.load_model(broken)
        assert "\n" not in str(error.value)

    weights.write_bytes(whole[:-100])
    says("damaged or truncated")
    weights.unlink()
    says("does not exist")
    weights.write_bytes(whole)
    tensors = load_file(weights)
    save_file(
        {k: v for k, v in tensors.items() if "layers.1.mlp.up_proj" not in k},
        weights,
        metadata={"format": "pt"},
    )
    says("missing: model.layers.1.mlp.up_proj.weight")
    save_file(tensors | {"model.extra.weight": torch.zeros(2)}, weights, metadata={"format": "pt"})
    says("unexpected: model.extra.weight")
    weights.write_bytes(whole)
    edit_json(broken / "config.json", hidden_size=64)
    says("cannot be loaded|do not fit")
    edit_json(broken / "config.json", hidden_size=32, is_causal=True)
    says("causal")
    edit_json(broken / "config.json", is_causal=False)
    edit_json(broken / "tokenizer_config.json", mask_token=None)
    says("no mask token")
    (broken / "config.json").write_text("{")
    says("cannot be read as JSON")


def test_attention_is_bidirectional_and_padding_changes_nothing(tiny_model):
    tokens = torch.randint(4, 30, (2, 12), generator=torch.Generator().manual_seed(0))
    logits = tiny_model.logits(tokens, torch.ones_like(tokens))
    other = tokens.clone()
    other[:, -1] = (other[:, -1] + 1) % 26 + 4
    assert (
        tiny_model.logits(other, torch.ones_like(tokens))[:, 0] - logits[:, 0]
    ).abs().amax() > 1e-3
    padded = torch.cat([tokens, torch.full((2, 7), 5)], 1)
    mask = (torch.arange(19) < 12).expand(2, 19)
    assert torch.allclose(tiny_model.logits(padded, mask)[:, :12], logits, atol=1e-4)


def test_propose_equals_a_slow_restatement(tiny_model):
    tokens = torch.randint(4, 30, (3, 14), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(14) < torch.tensor([14, 11, 9])[:, None]
    positions = torch.tensor([[3, 4, 8], [0, 9, 10], [1, 2, 5]])
    proposal = tiny_model.propose(
        Forward(tokens, mask, positions), needs={"entropy", "margin"}, k=4
    )
    logits = tiny_model.logits(tokens, mask).double()
    for row in range(3):
        for place in range(3):
            z = logits[row, positions[row, place]]
            allowed = [v for v in range(len(z)) if v not in tiny_model.never_ids]
            p = {v: float((z[v] - z[allowed].max()).exp()) for v in allowed}
            p = {v: x / sum(p.values()) for v, x in p.items()}
            top = sorted(p.values(), reverse=True)
            assert proposal.tokens[row, place] == max(p, key=lambda v: p[v])
            assert proposal.confidence[row, place].tolist() == pytest.approx(top[:4], abs=1e-5)
            assert float(proposal.features["margin"][row, place]) == pytest.approx(
                top[0] - top[1], abs=1e-5
            )
            entropy = -sum(x * torch.tensor(x).log().item() for x in p.values() if x > 0)
            assert float(proposal.features["entropy"][row, place]) == pytest.approx(
                entropy, abs=1e-3
            )


def test_the_mask_token_is_never_proposed_even_if_it_is_the_best(tiny_dir):
    model = unmask.load_model(tiny_dir, dtype=torch.float32)
    head = model.network.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.clone(), requires_grad=False)  # untie
    tokens = torch.full((1, 6), model.mask_id)
    hidden = model.network.base_model(
        input_ids=tokens, attention_mask=torch.ones_like(tokens)
    ).last_hidden_state
    for never in model.never_ids:
        head.weight[never] = 50 * hidden[0].mean(0)
    assert set(model.logits(tokens, torch.ones_like(tokens))[0].argmax(-1).tolist()) <= set(
        model.never_ids
    )
    generation = unmask.generate(model, [[5, 6]], "threshold:0.5", max_new_tokens=6)
    assert not set(generation.tokens.flatten().tolist()) & set(model.never_ids)


def test_tokenizer_needs_no_spaces(tiny_model):
    tokenizer = tiny_model.tokenizer
    assert tokenizer("7a+5b*3=")["input_ids"] == tokenizer("7 a +5 b *3 =")["input_ids"]


@pytest.mark.parametrize(
    "name",
    [n for n in unmask.embedded_models() if n.partition("-")[2] not in ("problems", "blocks")],
)
def test_embedded_models_are_small_bidirectional_and_solve_their_task(name):
    directory = EMBEDDED / name.removeprefix("embedded/")
    assert sum(f.stat().st_size for f in directory.iterdir()) <= 8 * 2**20
    model, task = (
        unmask.load_model(name),
        unmask.load_task(name.removeprefix("embedded/").partition("-")[0]),
    )
    assert model.max_new_tokens == task.max_new_tokens
    examples = task.examples("test", 48)
    prompts = [e.prompt for e in examples]

    def accuracy(policy, block_length):
        generation = unmask.generate(
            model, prompts, policy, max_new_tokens=task.max_new_tokens, block_length=block_length
        )
        return sum(map(task.score, generation.text, examples)) / len(examples)

    assert accuracy("threshold:0.95", task.block_length) > 0.75
    # In a block-causal model that is each block at once.
    assert accuracy("threshold:0", None) < (0.25 if model.attention_block is None else 0.5)


def test_the_block_causal_model_solves_its_task_and_needs_several_passes_a_block():
    model, task = unmask.load_model("embedded/chain-blocks"), unmask.load_task("chain")
    assert model.attention_block == 16
    examples = task.examples("test", 48)
    prompts = [example.prompt for example in examples]

    def accuracy(policy):
        generation = unmask.generate(model, prompts, policy, max_new_tokens=48)
        return sum(map(task.score, generation.text, examples)) / len(examples)

    assert accuracy("threshold:0.95") > 0.75
    assert accuracy("threshold:0") < 0.5


def test_the_model_of_word_problems_is_small_and_solves_some():
    directory = EMBEDDED / "word-problems"
    assert sum(f.stat().st_size for f in directory.iterdir()) <= 12 * 2**20
    assert "not a solver" in (directory / "README.md").read_text(encoding="utf-8")
    model, task = unmask.load_model("embedded/word-problems"), unmask.load_task("word-problems")
    assert model.max_new_tokens == task.max_new_tokens == 128
    examples = task.examples("test", 48)
    prompts = [example.prompt for example in examples]
    generation = unmask.generate(
        model, prompts, "threshold:0.95", max_new_tokens=128, block_length=32
    )
    right = sum(map(task.score, generation.text, examples))
    assert right > 0.5 * len(examples)


def test_the_embedded_models_are_named_where_one_is_not_known():
    assert unmask.embedded_models() == [
        "embedded/chain",
        "embedded/chain-blocks",
        "embedded/chain-dream",
        "embedded/sudoku",
        "embedded/sudoku-dream",
        "embedded/word-problems",
    ]
    with pytest.raises(
        unmask.UnmaskError,
        match="embedded/chain, embedded/chain-blocks, embedded/chain-dream, embedded/sudoku",
    ):
        unmask.load_model("embedded/none")


def test_a_proposal_that_cannot_be_made_is_refused(tiny_model):
    forward = Forward(
        torch.tensor([[4, 5, tiny_model.mask_id]]),
        torch.ones(1, 3, dtype=torch.bool),
        torch.tensor([[2]]),
    )
    for sampling, options, says in (
        (Sampling(temperature=1.0), {}, "no generator"),
        (Sampling(cfg_scale=1.0), {}, "prompt is masked"),
        (Sampling(), {"k": 0}, "top 0 probabilities"),
        (Sampling(), {"k": 1000}, "this model has"),
        (Sampling(), {"needs": {"logits"}}, "feature 'logits'"),
    ):
        with pytest.raises(unmask.UnmaskError, match=says):
            tiny_model.propose(forward, sampling, **options)


def test_how_much_is_done_at_once_depends_on_the_device_and_changes_nothing(
    tiny_model, monkeypatch
):
    cpu, gpu = HeadPlan.for_device("cpu"), HeadPlan.for_device("cuda")
    assert cpu.tile < gpu.tile and cpu.logits < gpu.logits and gpu.drawn < gpu.logits
    prompts = [[5, 6, 7], [8, 9], [4] * 9]
    plain = unmask.generate(tiny_model, prompts, "entropy:0.5", max_new_tokens=9)
    small = HeadPlan(16, 64, 64)
    monkeypatch.setattr(HeadPlan, "for_device", staticmethod(lambda kind: small))
    few = dataclasses.replace(tiny_model)
    vars(few)["positions_at_once"] = 20
    pieces = unmask.generate(few, prompts, "entropy:0.5", max_new_tokens=9)
    assert torch.equal(plain.tokens, pieces.tokens)
    assert torch.equal(plain.reveal_step, pieces.reveal_step)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [48, 50, 7])
def test_slices_that_are_computed_together_keep_their_bits(monkeypatch, dtype, vocabulary):
    torch.manual_seed(0)
    head = torch.nn.Linear(24, vocabulary).to(dtype)
    noise = torch.rand(5, vocabulary)
    rules = TokenRules(never=(3, vocabulary - 1), last=(5,))
    for m in (1, 5):
        hidden = torch.randn(m, 24).to(dtype)
        alone = dict(tiles(head, hidden, 16))
        together = [x for _, x in tiles(head, hidden, 16, 3 * 16 * m)]
        assert sum(len(x[0]) for x in together) == len(alone) == -(-vocabulary // 16)
        assert len(together) < len(alone) or vocabulary < 16
        joined = torch.cat([x.flatten(1) for x in together], 1)
        assert joined.equal(torch.cat([x.flatten(1) for x in alone.values()], 1))
        for sampling in (Sampling(), Sampling(0.7), Sampling(0.7, top_p=0.9, top_k=5)):
            draw = (lambda a, n, m=m: noise[:m, a : a + n]) if sampling.temperature else None
            choices = []
            for most in (0, 2 * 16 * m, 2**20):
                plan = HeadPlan(16, most, most)
                monkeypatch.setattr(HeadPlan, "for_device", staticmethod(lambda kind, p=plan: p))
                options = {"sampling": sampling, "rules": rules, "k": 3, "noise": draw}
                choices.append(best_tokens(head, hidden, entropy=True, **options))
            for other in choices[1:]:
                for name in ("token", "own", "largest", "entropy"):
                    assert getattr(choices[0], name).equal(getattr(other, name)), name


def test_tokens_are_looked_up_in_sets(tiny_model):
    """A tuple of some hundred ids would be searched for every token of every text."""
    assert tiny_model.never_set == frozenset(tiny_model.never_ids)
    assert tiny_model.end_set == frozenset(tiny_model.eos_ids)
    assert isinstance(tiny_model.never_set, frozenset)


def test_a_causal_network_is_no_model(tiny_model):
    network = copy.deepcopy(tiny_model.network)
    network.config.is_causal = True
    with pytest.raises(unmask.UnmaskError, match="whose config does not say is_causal"):
        dataclasses.replace(tiny_model, network=network)


def test_the_ids_of_a_model_are_checked(tiny_model):
    check_types(False)
    call = ([[5, 6]], "confidence:1")
    options = {"max_new_tokens": 2, "eos": "never"}
    ids = {"eos_ids": list(tiny_model.eos_ids), "never_ids": list(tiny_model.never_ids)}
    lists = dataclasses.replace(tiny_model, **ids)
    assert (lists.eos_ids, lists.never_ids) == (tiny_model.eos_ids, tiny_model.never_ids)
    expected = unmask.generate(tiny_model, *call, **options).tokens
    assert unmask.generate(lists, *call, **options).tokens.equal(expected)
    for wrong in (2, None, ("</s>",), (None,)):
        with pytest.raises(unmask.UnmaskError, match=r"eos_ids is .*; give a list of token ids"):
            dataclasses.replace(tiny_model, eos_ids=wrong)
    for ends, says in (((), "has no end of text; give"), ((999,), "special token id 999; give")):
        with pytest.raises(unmask.UnmaskError, match=says):
            unmask.generate(dataclasses.replace(tiny_model, eos_ids=ends), *call, **options)


def test_caches_take_the_keywords_of_newer_transformers():
    keys = torch.ones(1, 1, 2, 4)
    padded, _ = PaddedKeys(3).update(keys, keys, 0, kwargs={})
    assert padded.shape == (1, 1, 5, 4)


def test_the_cache_is_passed_under_the_name_that_the_backbone_gives_it(monkeypatch):
    """transformers 5.24 calls it `cache`, and warns of `past_key_values`."""
    model = unmask.load_model("embedded/chain")
    call = (model, ["7 a +5 b *3 ="], "threshold:0.9")
    expected = unmask.generate(*call, max_new_tokens=16).tokens
    backbone = type(model.network.base_model)
    given = []

    class Renamed(backbone):
        def forward(self, input_ids, attention_mask, position_ids=None, cache=None, **rest):
            given.append(cache)
            rest[own_name] = cache
            return super().forward(input_ids, attention_mask, position_ids, **rest)

    names = inspect.signature(backbone.forward).parameters
    own_name = "cache" if "cache" in names else "past_key_values"
    monkeypatch.setattr(model.network.base_model, "__class__", Renamed)
    call = (dataclasses.replace(model), *call[1:])  # which has kept no name
    for options in ({}, {"cache": "dual", "block_length": 8}):
        tokens = unmask.generate(*call, max_new_tokens=16, **options).tokens
        assert options or tokens.equal(expected)
    assert any(given)
    assert {type(cache).__name__ for cache in given} == {"PaddedKeys", "CacheView"}
