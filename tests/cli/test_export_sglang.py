"""`unmask export-sglang`: the file that SGLang reads, and the command that serves it."""

import shutil

import pytest
import yaml

from tests.decoding.test_engine import learned
from unmask.cli import main
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


def test_a_model_says_which_tokens_are_never_proposed(export, tiny_dir, tmp_path):
    code, shown, _ = export("threshold:0.9", "--model", tiny_dir)
    assert code == 0 and f"--model-path {tiny_dir} " in shown
    values = yaml.safe_load((tmp_path / "unmask.yaml").read_text(encoding="utf-8"))
    model = load_model(tiny_dir)
    never = load_decoder(values).settings.never_of(model.vocabulary)
    assert set(never) == set(model.never_ids) and values["policy"] == "threshold:0.9"


def test_a_model_without_weights_has_the_tokens_of_the_whole_one(tiny_dir, tmp_path):
    whole, empty = load_model(tiny_dir), load_without_weights(str(tiny_dir))
    for name in ("mask_id", "eos_ids", "never_ids", "vocabulary", "family"):
        assert getattr(empty, name) == getattr(whole, name)
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
        file.write_text(before, encoding="utf-8")
    assert export("threshold:0.9", "--model", "model")[0] == 0
