"""The server under load, in short; `python -m tests.serving.load` is the long form."""

import asyncio

from tests.serving.load import (
    compare_answers,
    leave_at_random,
    resident_bytes,
    stop_under_load,
    wait_until_empty,
)
from tests.serving.server import start_server


def test_mixed_requests_side_by_side_are_answered_as_alone(server, chain, policy_dirs):
    policies = {name: str(directory) for name, directory in policy_dirs.items()}
    assert compare_answers(server, chain, policies, 16, 16) >= 16


def test_clients_that_leave_free_their_slots_and_a_stop_answers_all(chain):
    with start_server("--batch-size", "8") as (url, process):
        assert asyncio.run(leave_at_random(url, 16, 16)) > 8
        wait_until_empty(url)
        assert resident_bytes(process) < 3 * 2**30
        assert asyncio.run(stop_under_load(url, process, 8)) == 8
