"""Edges of models and evaluation that the files named after them leave out."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from unmask import UnmaskError, evaluate, load_model, load_task
from unmask.models import Forward, Sampling
from unmask.models.tokenizer import word_tokenizer
from unmask.rng import RowGenerator


def change_weights(directory, function):
    weights = load_file(directory / "model.safetensors")
    function(weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def truncate(file, keep):
    file.write_bytes(file.read_bytes()[:keep])


def edit_config(directory, edit):
    config = json.loads((directory / "config.json").read_text())
    edit(config)
    (directory / "config.json").write_text(json.dumps(config))


NORM = "model.layers.0.input_layernorm.weight"
DAMAGE = {
    "wrong shape": (
        lambda d: change_weights(d, lambda w: w.update({NORM: torch.ones(5)})),
        "cannot be loaded|do not fit",
    ),
    "cut header": (lambda d: truncate(d / "model.safetensors", 20), "damaged or truncated"),
    "empty weights": (lambda d: truncate(d / "model.safetensors", 0), "damaged or truncated"),
    "no config": (lambda d: (d / "config.json").unlink(), "config.json does not exist"),
    "config is a list": (lambda d: (d / "config.json").write_text("[]"), "config.json"),
    "unknown architecture": (
        lambda d: edit_config(d, lambda c: c.update(model_type="other")),
        "cannot be loaded",
    ),
    "silent on causality": (lambda d: edit_config(d, lambda c: c.pop("is_causal")), "causal"),
    "cut tokenizer": (lambda d: truncate(d / "tokenizer.json", 100), "tokenizer.json cannot be"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_models_are_refused_in_one_line(tiny_dir, tmp_path, name):
    damage, message = DAMAGE[name]
    directory = Path(shutil.copytree(tiny_dir, tmp_path / "broken"))
    damage(directory)
    with pytest.raises(UnmaskError, match=message) as caught:
        load_model(directory)
    assert "\n" not in str(caught.value) and "broken" in str(caught.value)


def test_the_type_of_the_weights_is_what_was_asked_for(tiny_model, tiny_dir):
    both = (tiny_model.dtype, load_model(tiny_dir, dtype="bfloat16").dtype)
    assert both == (torch.float32, torch.bfloat16)
    tokenizer = tiny_model.tokenizer
    assert set(tiny_model.never_ids) == {
        tokenizer.mask_token_id,
        tokenizer.pad_token_id,
        tokenizer.unk_token_id,
    }


def test_padding_may_hold_anything(tiny_model):
    """Tight: 1e-5 of the logits' scale, which rounding in another order needs and a padding that
    leaks does not meet."""
    draw = torch.Generator().manual_seed(0)
    tokens, padding = (
        torch.randint(59, (3, 12), generator=draw),
        torch.randint(59, (3, 20), generator=draw),
    )
    alone = tiny_model.logits(tokens, torch.ones_like(tokens))
    mask = (torch.arange(32) < 12).expand(3, -1)
    padded = tiny_model.logits(torch.cat([tokens, padding], 1), mask)[:, :12]
    assert (padded - alone).abs().max() <= 1e-5 * max(1.0, float(alone.abs().max()))


def test_drawn_tokens_follow_the_tempered_distribution(tiny_model):
    """At temperature 2, frequencies over many keys against softmax(logits / 2); the confidence is
    the probability that the drawn token has at temperature 1."""
    n, tokens = 4000, torch.tensor([[4, 5, tiny_model.mask_id]])
    mask, position = torch.ones_like(tokens, dtype=torch.bool), torch.tensor([[2]])
    logits = tiny_model.logits(tokens, mask)[0, 2].double()
    logits[list(tiny_model.never_ids)] = -torch.inf
    rows = [x.expand(n, -1).contiguous() for x in (tokens, mask, position)]
    generator = RowGenerator(torch.arange(n) * 7919)
    proposal = tiny_model.propose(Forward(*rows), Sampling(temperature=2.0), generator=generator)
    frequencies = torch.bincount(proposal.tokens[:, 0], minlength=len(logits)) / n
    assert not frequencies[list(tiny_model.never_ids)].any()
    torch.testing.assert_close(
        frequencies.double(), (logits / 2).softmax(0), atol=4 * 0.5 / n**0.5, rtol=0
    )
    drawn = logits.softmax(0)[proposal.tokens[:, 0]]
    assert len(proposal.tokens.unique()) > 3
    torch.testing.assert_close(proposal.confidence[:, 0, 0].double(), drawn, atol=1e-5, rtol=0)


def test_tokenizer_forgives_a_space_behind_an_operator():
    """`+ 5` is not how the task writes it, but how people type it."""
    tokenizer = word_tokenizer(load_task("chain").words)
    assert tokenizer("7 a + 5")["input_ids"] == tokenizer("7a+5")["input_ids"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_lengths": []}, "block"),
        ({"block_lengths": [16, 0]}, "block_length is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_evaluate_refuses_before_it_writes(tiny_model, tmp_path, change, message):
    options = {"block_lengths": [16], "prompts": 2, "out": tmp_path / "out"} | change
    with pytest.raises(UnmaskError, match=message):
        evaluate(tiny_model, load_task("chain"), ["threshold:0.9"], **options)
    assert not (tmp_path / "out").exists()
