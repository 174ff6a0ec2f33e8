"""Generators of reasoning-gym whose verifiers evaluate what they are given: a model's text is never
run, and right answers count."""

import pytest

from unmask.errors import UnmaskError
from unmask.tasks import load_task
from unmask.tasks.reasoning_gym import (
    COMPARED,
    FORMULAS,
    INTEGRALS,
    NO_LARGE_NUMBER,
    PATTERNS,
    evaluates_text,
)

EVALUATING = (*COMPARED, *FORMULAS, *INTEGRALS)


def attacks(file):
    """Texts that create a file where they are evaluated, and one that is evaluated without end."""
    letters = "+".join(f"chr({ord(letter)})" for letter in str(file))
    return [
        f"__import__('os').system('touch {file}')",
        f"open('{file}', 'w')",
        f"open({letters}, chr(119))",
        f"24 if open({letters}, chr(119)) else 24",
        f"(lambda f: f({letters}, chr(119)))(open)",
        f"().__class__.__base__.__subclasses__() and open({letters}, chr(119))",
        f"x.__class__.__mro__[-1] or open({letters}, chr(119))",
        f"[open({letters}, chr(119)) for x in [0]]",
        f"sin(open({letters}, chr(119)))",
        f"E**(open({letters}, chr(119)))",
        f"1 + 2 + 3 # \n + open('{file}', 'w')",
        "9**9**9**9",
        "x + (9**9)**(9**9)**9 + C",
        "exp(exp(exp(exp(exp(9)))))",
        "exp(9999999)",
    ]


@pytest.mark.parametrize("name", EVALUATING)
def test_what_a_model_writes_is_never_evaluated(name, tmp_path, monkeypatch):
    task = load_task(f"reasoning_gym:{name}")
    example = task.examples("train", 1)[0]
    seen = []

    def see_answer(self, answer, entry):
        seen.append(answer)
        return 1.0

    with monkeypatch.context() as patch:
        # The verifier would hold this process for good with some of these.
        patch.setattr(dataset_of(name), "score_answer", see_answer)
        for text in attacks(tmp_path / "made"):
            assert task.score(f"<answer>{text}</answer>", example) == 0.0, text
            assert task.score(text, example) == 0.0, text
    assert not seen
    for text in attacks(tmp_path / "made")[:-4]:
        task.score(f"<answer>{text}</answer>", example)
    assert not list(tmp_path.iterdir())


def dataset_of(name):
    """The class of a generator."""
    from reasoning_gym.factory import DATASETS

    return DATASETS[name][0]


@pytest.mark.parametrize("name", [*EVALUATING, "bitwise_arithmetic", "number_sorting"])
def test_right_answers_count_in_full(name):
    task = load_task(f"reasoning_gym:{name}")
    examples = task.examples("train", 4)
    for place, example in enumerate(examples):
        assert task.score(f"so <answer> {example.answer} </answer>", example) == 1.0
        wrong = examples[place - 1].answer
        if name != "puzzle24" and wrong != example.answer:  # its verifier looks at no numbers
            assert task.score(f"<answer>{wrong}</answer>", example) == 0.0


def test_all_boards_that_solve_the_queens_are_right():
    task = load_task("reasoning_gym:n_queens")
    example = next(e for e in task.stream("train") if len(e.data["metadata"]["valid_answers"]) > 1)
    for board in example.data["metadata"]["valid_answers"]:
        assert task.score(f"<answer>{board}</answer>", example) == 1.0


def test_answers_in_another_form_are_right():
    sums = load_task("reasoning_gym:countdown")
    example = sums.examples("train", 1)[0]
    assert sums.score(f"<answer>-(-({example.answer}))</answer>", example) == 1.0
    for name in INTEGRALS:
        task = load_task(f"reasoning_gym:{name}")
        for example in task.examples("train", 3):
            if "Integral" not in example.answer:
                assert task.score(f"<answer>12 + {example.answer}/1</answer>", example) == 1.0
                wrong = f"12 + {example.answer} + {example.data['metadata']['variable']}/2"
                assert task.score(f"<answer>{wrong}</answer>", example) == 0.0


def test_a_wrong_integral_is_told_without_the_verifier(monkeypatch):
    """To simplify these takes the verifier more than a minute."""
    task = load_task("reasoning_gym:intermediate_integration")
    example = next(e for e in task.stream("train") if "Integral" not in e.answer)
    monkeypatch.setattr(dataset_of("intermediate_integration"), "score_answer", lambda *_: 1.0)
    hard = "atan(12*x**5 - 5*x**3 + x)**5 + atan(13*x**5 - 91)**(3/2)"
    for wrong in (hard, f"{example.answer} + ({hard})/1000000"):
        assert task.score(f"<answer>{wrong}</answer>", example) == 0.0


def test_verifiers_that_evaluate_are_found():
    from reasoning_gym.factory import DATASETS

    found = {name for name, (dataset, *_) in DATASETS.items() if evaluates_text(dataset)}
    bounded = {name for name, pattern in PATTERNS.items() if pattern is NO_LARGE_NUMBER}
    assert found - {"composite"} == {*EVALUATING, *PATTERNS} - bounded


def score_by_eval(self, answer, entry):
    return max(float(str(value) == entry["answer"]) for value in [eval(answer)])


def score_by_sympy(self, answer, entry):
    import sympy

    return float(sympy.simplify(answer) == int(entry["answer"]))


def score_by_parser(self, answer, entry):
    from sympy.parsing.sympy_parser import parse_expr

    return float(parse_expr(answer) == int(entry["answer"]))


@pytest.mark.parametrize("score", [score_by_eval, score_by_sympy, score_by_parser])
def test_another_generator_that_evaluates_is_refused(score, monkeypatch):
    """As a newer version of the library may bring."""
    monkeypatch.setattr(dataset_of("lcm"), "score_answer", score)
    with pytest.raises(UnmaskError, match="reasoning_gym:lcm may run what a model writes"):
        load_task("reasoning_gym:lcm")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rubiks_cube", "U999999999"),
        ("rush_hour", "A+99999999999"),
        ("number_sorting", "[9]*9"),
        ("number_sorting", "print"),
        ("bitwise_arithmetic", "0x1+0x1"),
        ("bitwise_arithmetic", "1" * 2000),
    ],
)
def test_verifiers_see_no_text_that_may_cost_without_bound(name, text, monkeypatch):
    task = load_task(f"reasoning_gym:{name}")
    example = task.examples("train", 1)[0]
    monkeypatch.setattr(dataset_of(name), "score_answer", lambda *_: 1.0)
    assert task.score(f"<answer>{text}</answer>", example) == 0.0
    assert task.score("<answer>U' R2 [1] </answer>", example) == float(name.startswith("ru"))
