import pytest

from tests.integrations.wheels import unpacked_wheel


@pytest.fixture(scope="session")
def sglang_dir():
    """SGLang's own files around its decoding algorithms."""
    parts = ("sglang/srt/dllm/", "sglang/srt/plugins/", "sglang/srt/environ.py")
    return unpacked_wheel("sglang", "0.5.23", parts)


@pytest.fixture(scope="session")
def diffusers_dir():
    """The whole of diffusers."""
    return unpacked_wheel("diffusers", "0.42.1", ("diffusers/",))
