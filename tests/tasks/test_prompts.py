"""The prompts of tasks in the chat templates of models."""

from dataclasses import replace

import pytest

from unmask.models.tokenizer import learned_tokenizer
from unmask.pretraining import PretrainConfig
from unmask.pretraining.network import new_model
from unmask.tasks import Example, prompt_tokens

EXAMPLE = Example("What is 2 + 2?", "4", system="Answer with a number.", prefill="It is ")
WRITES_ALL = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "
REFUSES_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + WRITES_ALL
)


def write_prompt(model, template, example):
    """The prompt's text for a model with this chat template."""
    texts = [example.prompt, example.system or "", example.prefill, "[user] [system] [assistant]"]
    tokenizer = learned_tokenizer(texts * 20, 400)
    tokenizer.chat_template = template
    network = new_model(PretrainConfig(width=32, layers=1, heads=2), tokenizer, 100, 24)
    own = replace(model, network=network, tokenizer=tokenizer)
    return tokenizer.decode(prompt_tokens(own, example))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (WRITES_ALL, "[system] Answer with a number.\n[user] What is 2 + 2?\n[assistant] It is "),
        (REFUSES_SYSTEM, "[user] Answer with a number.\n\nWhat is 2 + 2?\n[assistant] It is "),
        (None, "Answer with a number.\n\nWhat is 2 + 2?It is "),
    ],
)
def test_the_system_message_stands_where_the_template_takes_it(tiny_model, template, expected):
    assert write_prompt(tiny_model, template, EXAMPLE) == expected


@pytest.mark.parametrize("template", [WRITES_ALL, REFUSES_SYSTEM, None])
def test_examples_of_no_chat_are_plain_text(tiny_model, template):
    plain = replace(EXAMPLE, system=None)
    assert write_prompt(tiny_model, template, plain) == "What is 2 + 2?It is "


def test_an_empty_system_message_is_left_out(tiny_model):
    expected = "[user] What is 2 + 2?\n[assistant] It is "
    assert write_prompt(tiny_model, WRITES_ALL, replace(EXAMPLE, system="")) == expected
