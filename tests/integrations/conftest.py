import pytest

from tests.integrations.wheels import sglang_wheel, unpacked_wheel


@pytest.fixture(scope="session")
def sglang_dir():
    return sglang_wheel()


@pytest.fixture(scope="session")
def diffusers_dir():
    """The whole of diffusers."""
    return unpacked_wheel("diffusers", "0.42.1", ("diffusers/",))
