"""`unmask export-sglang`: the file that SGLang reads, and the command that serves it."""

import json
import shutil

import pytest
import yaml

from tests.decoding.test_engine import learned
from tests.models.checkpoints import write
from unmask.cli import export_sglang, main
from unmask.integrations.sglang import load_decoder
from unmask.models.load import load_model, load_without_weights


@pytest.fixture
def export(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main(["export-sglang", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_the_file_holds_what_was_said_and_is_what_the_plug_in_reads(export, tmp_path):
    learned(0, conditioned=True).save_pretrained(tmp_path / "best")
    options = ["--alpha", 2, "--tau-pi", 0.5, "--temperature", 0.7, "--seed", 3, "--block-size", 8]
    code, shown, _ = export("best@beta=2", *options, "--to", "policy.yaml")
    assert code == 0
    file = tmp_path / "policy.yaml"
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    expected = {"alpha": 2.0, "tau_pi": 0.5, "temperature": 0.7, "seed": 3, "block_size": 8}
    assert values == {"policy": f"{tmp_path / 'best'}@beta=2", **expected}
    command = "python -m sglang.launch_server --model-path MODEL --dllm-algorithm Unmask"
    assert f"{command} --dllm-algorithm-config {file}\n" in shown
    decoder = load_decoder(values)
    assert (decoder.policy.alpha, decoder.policy.beta, decoder.policy.temperature) == (2, 2, 0.5)
    assert decoder.settings.sampling.temperature == 0.7


@pytest.fixture(scope="module", params=["sdar", "sdar_moe", "llada2_moe"])
def served(request, tmp_path_factory):
    """The directory of a tiny model of each family that SGLang serves."""
    directory = tmp_path_factory.mktemp("models") / request.param
    return write(request.param, directory, block_size=8).directory


def test_a_model_says_its_blocks_and_which_tokens_are_never_proposed(
    export, served, tmp_path, monkeypatch
):
    model = load_model(served)
    code, _, error = export("threshold:0.9", "--model", served)
    assert code == 2 and f"the mask token of {served} is {model.mask_id}, and SGLang" in error
    assert not list(tmp_path.iterdir())

    monkeypatch.setitem(export_sglang.MASKS, model.family, model.mask_id)
    code, shown, _ = export("threshold:0.9", "--model", served)
    assert code == 0 and f"--model-path {served} " in shown
    values = yaml.safe_load((tmp_path / "unmask.yaml").read_text(encoding="utf-8"))
    never = load_decoder(values).settings.never_of(model.vocabulary)
    assert set(never) == set(model.never_ids)
    assert (values["policy"], values["block_size"]) == ("threshold:0.9", 8)
    assert export("threshold:0.9", "--model", served, "--block-size", 4)[0] == 0
    values = yaml.safe_load((tmp_path / "unmask.yaml").read_text(encoding="utf-8"))
    assert values["block_size"] == 4


def test_a_vocabulary_may_have_gaps(export, served, tmp_path, monkeypatch):
    shutil.copytree(served, tmp_path / "model")
    file = tmp_path / "model" / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    whole = load_model(served)
    tokenizer["model"]["vocab"]["a"] = whole.largest_id + 1
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    model = load_model(tmp_path / "model")
    assert len(model.tokenizer) == model.largest_id < model.vocabulary
    monkeypatch.setitem(export_sglang.MASKS, model.family, model.mask_id)
    assert export("threshold:0.9", "--model", tmp_path / "model")[0] == 0
    values = yaml.safe_load((tmp_path / "unmask.yaml").read_text(encoding="utf-8"))
    never = load_decoder(values).settings.never_of(model.vocabulary)
    assert set(never) == set(model.never_ids) and model.largest_id not in never


def test_a_model_that_sglang_does_not_serve_is_refused(export, tiny_dir, tmp_path):
    code, _, error = export("threshold:0.9", "--model", tiny_dir)
    assert code == 2 and "is a plain model; SGLang serves SDAR, SDAR-MoE, LLaDA2" in error
    assert not list(tmp_path.iterdir())


def test_a_model_without_weights_has_the_tokens_of_the_whole_one(served, tiny_dir):
    for directory in (served, tiny_dir):
        whole, empty = load_model(directory), load_without_weights(str(directory))
        for name in ("mask_id", "eos_ids", "never_ids", "vocabulary", "family", "attention_block"):
            assert getattr(empty, name) == getattr(whole, name), name
        assert empty.device.type == "meta"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["threshold:2"], "λ of threshold is 2"),
        (["nothing/here/at/all"], "is neither a directory"),
        (["threshold:0.9", "--alpha", "3"], "alpha is for learned policies"),
        (["threshold:0.9", "--block-size", "0"], "block_size is 0"),
        (["threshold:0.9", "--temperature", "-1"], "temperature is -1"),
        (["threshold:0.9", "--model", "embedded/nothing"], "model 'embedded/nothing' is not known"),
        (["threshold:0.9", "--to", "missing/policy.yaml"], "directory missing does not exist"),
        (["threshold:0.9", "--to", "."], "output file . is a directory; name a file"),
    ],
)
def test_bad_values_are_refused_and_nothing_is_written(export, tmp_path, arguments, says):
    code, shown, error = export(*arguments)
    assert (code, shown) == (2, "") and error.count("\n") == 1
    assert error.startswith("unmask export-sglang: ") and says in error
    assert not list(tmp_path.iterdir())


def test_damaged_files_of_a_model_are_refused(export, tiny_dir, tmp_path):
    shutil.copytree(tiny_dir, tmp_path / "model")
    for name, text in (("generation_config.json", "{"), ("config.json", '{"model_type": "qwen3"}')):
        file = tmp_path / "model" / name
        before = file.read_text(encoding="utf-8") if file.exists() else "{}"
        file.write_text(text, encoding="utf-8")
        code, shown, error = export("threshold:0.9", "--model", "model")
        assert (code, shown) == (2, "") and error.count("\n") == 1
        assert "is a plain model" not in error
        file.write_text(before, encoding="utf-8")
    assert "is a plain model" in export("threshold:0.9", "--model", "model")[2]
