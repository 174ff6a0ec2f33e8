"""Some malformed inputs of every kind: refused by a sentence, with nothing left behind."""

import signal

import hypothesis
import pytest

from tests.fuzz.kinds import KINDS, make_good_files, run_case

EXAMPLES = {"models": 100, "policies": 60, "results": 12, "prompts": 30, "command lines": 60}
LIMIT = 20  # seconds of a case


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    directory = tmp_path_factory.mktemp("fuzz")
    (directory / "good").mkdir()
    make_good_files(directory / "good")
    return directory


@pytest.mark.parametrize("name", KINDS)
def test_malformed_inputs_are_refused_by_a_sentence(root, name):
    kind = KINDS[name]

    @hypothesis.settings(
        max_examples=EXAMPLES.get(name, 20),
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(kind.cases(root / "good"))
    def run(case):
        signal.alarm(LIMIT)  # ends the process, for a hang in a library cannot be interrupted
        try:
            assert run_case(root, kind, case) in ("refused", "accepted")
        finally:
            signal.alarm(0)

    run()
