"""Where models and policies come from: typing errors in local paths never reach the Hub."""

from pathlib import Path

import pytest

from unmask import UnmaskError, load_model, load_policy
from unmask.sources import find_source


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that notes what it is asked for; the working directory is empty."""
    asked = []

    def snapshot_download(repository, *, revision=None, allow_patterns=None):
        asked.append((repository, revision, tuple(allow_patterns)))
        return str(tmp_path / "snapshot")

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


def find(name, **options):
    return find_source("model", name, ("*.json",), others="nor an embedded one", **options)


def test_names_of_repositories_are_downloaded(hub, tmp_path):
    for name in ("GSAI-ML/LLaDA-8B-Instruct", "hf:GSAI-ML/LLaDA-8B-Instruct"):
        assert find(name, revision="v1") == tmp_path / "snapshot"
    assert hub == [("GSAI-ML/LLaDA-8B-Instruct", "v1", ("*.json",))] * 2


@pytest.mark.parametrize(
    "name",
    [
        "runs/frist",
        "demo/full",
        "models/llada",
        "./a",
        "../a/b",
        "/a/b",
        "~/a",
        "a/b/c",
        "a",
        "",
        "a\\b",
    ],
)
def test_names_that_look_like_paths_are_not_asked_for(hub, name):
    Path("models").mkdir()
    for load in (load_model, load_policy):
        with pytest.raises(UnmaskError):
            load(name)
    assert hub == []


def test_a_misspelt_path_says_how_to_mean_the_hub(hub, tmp_path):
    Path("models/llada").mkdir(parents=True)
    with pytest.raises(
        UnmaskError, match=r"'models/lada' is not a local directory.*hf:models/lada"
    ):
        find("models/lada")
    assert find("hf:models/lada") == tmp_path / "snapshot"
    assert find("models/llada") == Path("models/llada")
    assert find("./models/llada") == Path("models/llada")
    assert len(hub) == 1


def test_the_home_directory_may_be_written_as_a_tilde(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find("~/here") == tmp_path / "here"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:", "names no Hub repository; write hf:owner/name"),
        ("hf:a/b/c", "names no Hub repository"),
        ("file", "is a file; give the directory"),
        ("x" * 5000, "cannot be read.*File name too long"),
        ("a/" + "x" * 5000, "cannot be read.*File name too long"),
        ("\0", "neither a directory"),
        ("\ud800", "neither a directory"),
        ("~nobody-of-this-name/a", "cannot be read"),
    ],
)
def test_impossible_names_are_refused_in_a_short_sentence(hub, name, message):
    Path("file").write_text("", encoding="utf-8")
    with pytest.raises(UnmaskError, match=message) as caught:
        find(name)
    assert len(str(caught.value)) < 700 and "\n" not in str(caught.value)
    assert hub == []


def test_revisions_belong_to_repositories(hub):
    Path("model").mkdir()
    with pytest.raises(UnmaskError, match="revision 'v1' was given, but model 'model' is a local"):
        load_model("model", revision="v1")
    with pytest.raises(UnmaskError, match="embedded/chain ships with this package"):
        load_model("embedded/chain", revision="v1")
    with pytest.raises(UnmaskError, match=r"threshold:0\.9 is a heuristic"):
        load_policy("threshold:0.9", revision="v1")


def test_a_failed_download_is_one_sentence(hub, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no\nnetwork " + "x " * 500)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(
        UnmaskError, match=r"'a/b' is not a local directory and could not"
    ) as caught:
        find("a/b")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
