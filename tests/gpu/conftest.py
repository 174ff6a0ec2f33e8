"""Tests that run on a GPU: `python -m pytest tests/gpu -n 0`.

UNMASK_GPU_TESTS_DEVICE=cpu runs the very same tests on the CPU, which checks the tests themselves.
"""

import os
from pathlib import Path

import pytest
import torch

import unmask

DEVICE = os.environ.get("UNMASK_GPU_TESTS_DEVICE", "cuda")


def pytest_collection_modifyitems(items):
    """Marks everything in this directory, and skips it where the device is missing."""
    here = Path(__file__).parent
    missing = DEVICE == "cuda" and not torch.cuda.is_available()
    reason = (
        "needs a GPU and a CUDA build of torch (UNMASK_GPU_TESTS_DEVICE=cpu runs it on the CPU)"
    )
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if missing:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def device():
    """Where the models under test are."""
    return DEVICE


@pytest.fixture(autouse=True)
def full_precision():
    """fp32 products are exact to fp32 on GPUs too, not rounded to TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="session")
def device_model(tiny_dir, device):
    """The tiny model of all tests, in fp32 on the device."""
    return unmask.load_model(tiny_dir, device=device, dtype=torch.float32)
