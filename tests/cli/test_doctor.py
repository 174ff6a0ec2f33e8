"""`unmask doctor`: what it finds, and when it says that something is broken."""

import json
import shutil
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import unmask.models.load
from unmask import embedded_models
from unmask.cli import doctor, main
from unmask.models.load import EMBEDDED


def findings(capsys, code):
    assert main(["doctor", "--json"]) == code
    return {each["name"]: each for each in json.loads(capsys.readouterr().out)}


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A directory of embedded models with one of them, so that the others take no time."""
    shutil.copytree(EMBEDDED / "chain-blocks", tmp_path / "embedded" / "chain-blocks")
    monkeypatch.setattr(unmask.models.load, "EMBEDDED", tmp_path / "embedded")
    return tmp_path / "embedded"


def test_everything_is_found_here(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    found = findings(capsys, 0)
    assert set(embedded_models()) < set(found)
    for name in (
        "python",
        "unmask",
        "torch",
        "transformers",
        "memory",
        "threads",
        "heuristics",
        "policy embedded/chain",
    ):
        assert found[name]["status"] == "ok", found[name]
    assert {"landlock", "seccomp", "namespaces", "programs are confined"} < set(found)
    assert str(tmp_path / "cache") in found["hugging face"]["detail"]
    assert "not made yet" in found["hugging face"]["detail"]
    assert {"tasks", "lm-eval", "docs"} < set(found)


def test_lines_for_reading(capsys, models):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "versions" and lines[-1] == "nothing is broken"
    assert any(line.split()[:2] == ["ok", "embedded/chain-blocks"] for line in lines)


def test_a_damaged_policy_is_broken(capsys, tmp_path, monkeypatch):
    from unmask.policies import load

    copied = Path(shutil.copytree(load.EMBEDDED / "chain", tmp_path / "policies" / "chain"))
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    monkeypatch.setattr(load, "EMBEDDED", copied.parent)
    found = findings(capsys, 1)
    assert found["policy embedded/chain"]["status"] == "broken"
    assert "install unmask anew" in found["policy embedded/chain"]["detail"]


def test_a_damaged_model_is_broken(capsys, models):
    weights = models / "chain-blocks" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    found = findings(capsys, 1)
    assert found["embedded/chain-blocks"]["status"] == "broken"
    assert "install unmask anew" in found["embedded/chain-blocks"]["detail"]
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.endswith("broken: embedded/chain-blocks\n")


def test_versions_that_will_not_do():
    for text, otherwise, expected in (
        ("torch>=2.9", "broken", "ok"),
        ("torch>=99", "broken", "broken"),
        ("no-such-package-here", "missing", "missing"),
    ):
        assert doctor.version_of(Requirement(text), otherwise)[0] == expected
