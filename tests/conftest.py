import gc
import os

# Nearly all that is imported stays: to look for garbage in it takes a second again and again.
gc.disable()

# The tensors are tiny; threads only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import importlib
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Before the hook: what is imported while it loads a module has compiled files of another name, and
# where those may not be written, a large package would be compiled anew in every process.
importlib.import_module("transformers.models.llama.modeling_llama")

# Imported before the hook: what tests look at here are the checks of the options themselves.
import unmask.decoding.options
from tests.typechecks import check_types

# Shapes and dtypes of every annotated function are checked in the first calls of every test. The
# hook stays, because the package imports its modules when they are first used. Modules without
# tensors are left to pyright: a checked call costs microseconds, and a function within a function
# is wrapped anew each time, which made tests that draw problems seven times as slow.
SOURCE = Path(__file__).parents[1] / "src"
WITH_SHAPES = [
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in SOURCE.rglob("*.py")
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
]
install_import_hook(WITH_SHAPES, "tests.typechecks.beartype_first")

import hypothesis

import unmask
from tests.effort import cases
from tests.sandbox.runs import CHILD, copy_compiled
from unmask.files import write_json
from unmask.models.tokenizer import word_tokenizer
from unmask.pretraining import PretrainConfig
from unmask.pretraining.network import new_model, save_model

gc.enable()
gc.freeze()
torch.set_num_threads(1)
hypothesis.settings.register_profile(
    "unmask", deadline=None, max_examples=cases(15, 100), derandomize=True
)
hypothesis.settings.load_profile("unmask")


@pytest.fixture(autouse=True)
def types_are_checked():
    """Also after a test that turned it off."""
    yield
    check_types(True)


@pytest.fixture(scope="session", autouse=True)
def compiled_child(tmp_path_factory):
    """The code of the sandbox's two processes, compiled once: where Python writes no compiled files
    (PYTHONDONTWRITEBYTECODE), each of some thousand processes would compile it for itself."""
    sandbox = importlib.import_module("unmask.sandbox.check")
    with pytest.MonkeyPatch.context() as patch:
        if sys.dont_write_bytecode:
            directory = tmp_path_factory.mktemp("sandbox") / "child"
            copy_compiled(CHILD, directory)
            patch.setattr(sandbox, "CHILD", directory)
        yield


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
    """A model directory with random weights on the chain task's vocabulary, exactly as `unmask
    pretrain` writes them."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    directory.mkdir()
    task = unmask.load_task("chain")
    tokenizer = word_tokenizer(task.words)
    model = new_model(PretrainConfig(width=32, layers=2, heads=2), tokenizer, 20, 51)
    torch.manual_seed(0)
    # Large enough that positions differ, small enough that few confidences saturate.
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.5)
    save_model(model, tokenizer, directory)
    write_json(directory / "recipe.json", {"recipe": {"task": "chain"}})
    return directory


@pytest.fixture(scope="session")
def tiny_model(tiny_dir):
    return unmask.load_model(tiny_dir, dtype=torch.float32)


@pytest.fixture
def any_digit(monkeypatch):
    """A verifier that an untrained model satisfies now and then, so that groups have signal: is the
    text's length even?"""
    import dataclasses

    import unmask.tasks
    from unmask.tasks import EMBEDDED

    loose = dataclasses.replace(
        EMBEDDED["chain"], score=lambda text, example: float(len(text) % 2 == 0)
    )
    monkeypatch.setitem(unmask.tasks.EMBEDDED, "chain", loose)
