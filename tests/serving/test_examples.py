"""Examples of the playground."""

import unmask
from unmask.serving.examples import COUNT, judge_answer, list_examples


def test_word_problems_are_offered_and_judged():
    name = "embedded/word-problems"
    model, offered = unmask.load_model(name), list_examples(name)
    assert len(offered) == COUNT
    assert list(offered) == unmask.load_task("word-problems").examples("test", COUNT)
    assert judge_answer(model, offered[0].prompt, offered[0].answer) is True
    assert judge_answer(model, offered[0].prompt, "#### 1000") is False
    assert judge_answer(model, "How are you?", offered[0].answer) is None


def test_every_model_that_ships_has_examples():
    for name in unmask.embedded_models():
        assert list_examples(name), name
