"""What prompts may be: empty ones, chats of any kind, masks in them and new text behind."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import unmask
from unmask import UnmaskError
from unmask.decoding import encode_prompt
from unmask.decoding.calls import check_prompts
from unmask.models import chat
from unmask.tasks import Example, prompt_tokens

CHAT = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "{{ '(' if m.role == 'user' else ')' }}{{ m.content }}{{ '.' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ ')' }}{% endif %}"
)


def chat_model(tiny_model, template):
    """The tiny model with a tokenizer of bytes and this chat template."""
    from unmask.models.tokenizer import learned_tokenizer

    tokenizer = learned_tokenizer(["hello world"] * 3, 300)
    tokenizer.chat_template = template
    network = tiny_model.network.__class__(replace_config(tiny_model.network.config, 300))
    never = (tokenizer.mask_token_id, tokenizer.pad_token_id)
    ends = (tokenizer.eos_token_id,)
    special = {"mask_id": tokenizer.mask_token_id, "eos_ids": ends, "never_ids": never}
    return replace(tiny_model, network=network.eval(), tokenizer=tokenizer, **special)


def replace_config(config, vocabulary):
    return config.__class__(**(config.to_dict() | {"vocab_size": vocabulary}))


@pytest.fixture(scope="module")
def model(tiny_model):
    return chat_model(tiny_model, CHAT)


def written(model, messages):
    return model.tokenizer.decode(encode_prompt(model, messages))


def user(content):
    return {"role": "user", "content": content}


def test_an_empty_prompt_is_text_without_a_question(tiny_model):
    for prompt in ("", []):
        found = unmask.generate(tiny_model, [prompt], "confidence:1", max_new_tokens=6)
        assert (found.reveal_step >= 0).all() and found.nfe.tolist() == [6]
    together = unmask.generate(tiny_model, [[5, 6], [], [9]], "confidence:1", max_new_tokens=6)
    assert torch.equal(together.tokens[1], found.tokens[0])
    cached = unmask.generate(
        tiny_model, [[]], "confidence:1", max_new_tokens=6, block_length=3, cache="prefix"
    )
    assert (cached.reveal_step >= 0).all()


def test_a_chat_that_ends_with_the_assistant_goes_on(model):
    asked = user("hello")
    assert written(model, [asked]) == "(hello.)"
    assert written(model, [asked, {"role": "assistant", "content": "wor"}]) == "(hello.)wor"
    assert written(model, [asked, {"role": "assistant", "content": " "}]) == "(hello.)"
    with pytest.raises(UnmaskError, match="no message but an empty one of the assistant"):
        encode_prompt(model, [{"role": "assistant", "content": ""}])


def test_parts_of_text_are_joined_and_all_else_is_refused(model):
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    assert written(model, [user(parts)]) == "(hello.)"
    image = {"type": "image", "url": "x"}
    for content in (None, 3, [], [image], [parts[0], image], [{"type": "text"}], {"text": "hi"}):
        with pytest.raises(UnmaskError, match="the content of a chat message is"):
            encode_prompt(model, [user(content)])
    for role in (None, 3):
        with pytest.raises(UnmaskError, match="has no role"):
            encode_prompt(model, [{"role": role, "content": "hello"}])


def test_a_template_without_a_system_role(model):
    system = {"role": "system", "content": "be brief"}
    with pytest.raises(UnmaskError, match=r"cannot write a chat .*system, user \(no system here\)"):
        encode_prompt(model, [system, user("hello")])
    example = Example("hello", "world", system="be brief")
    folded = model.tokenizer.decode(prompt_tokens(model, example))
    assert folded == "(be brief\n\nhello.)"


@pytest.mark.parametrize(
    "template", ["{{ 1 / 0 }}", "{% for %}", "{{ messages.x.y }}", "{{ a() }}"]
)
def test_a_template_that_fails_is_one_sentence(tiny_model, template):
    model = chat_model(tiny_model, template)
    with pytest.raises(UnmaskError, match="cannot write a chat"):
        encode_prompt(model, [user("hello")])
    with pytest.raises(UnmaskError, match="cannot write a chat"):
        prompt_tokens(model, Example("hello", "world", system="be brief"))


def test_the_time_of_a_template_is_that_of_the_processor(monkeypatch):
    """A busy machine refuses no template; one that runs, or waits, for ever is ended."""
    monkeypatch.setattr(chat, "MOST_SECONDS", 0.2)

    def turn():  # each call is looked at, as each line of a template is
        pass

    with chat.limited_template():
        for _ in range(3):
            time.sleep(0.1)  # as if other programs had the processor
            turn()
    with (
        pytest.raises(chat.TemplateLimit, match=r"more than 0\.2 seconds"),
        chat.limited_template(),
    ):
        while True:
            turn()
    monkeypatch.setattr(chat, "LONGEST_WAIT", 0.2)
    with (
        pytest.raises(chat.TemplateLimit, match=r"did not end within 0\.2"),
        chat.limited_template(),
    ):
        while True:
            time.sleep(0.01)
            turn()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says it in its own way")
def test_the_memory_of_a_template_is_counted_in_bytes():
    """getrusage gives KiB on Linux and bytes on macOS."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    assert chat.peak_memory() == pytest.approx(kib * 1024, rel=0.05)


def test_a_model_without_a_template(tiny_model):
    model = chat_model(tiny_model, None)
    with pytest.raises(UnmaskError, match="has no chat template"):
        encode_prompt(model, [user("hello")])


@pytest.mark.parametrize("prompt", ["a \ud800 b", [{"role": "user", "content": "a \udfff b"}]])
def test_half_a_character_is_refused(model, prompt):
    with pytest.raises(UnmaskError, match="half a character") as caught:
        encode_prompt(model, prompt)
    str(caught.value).encode()  # the sentence itself can be printed


def test_masks_in_a_prompt_and_new_tokens_behind(tiny_model):
    mask = tiny_model.mask_id
    prompt, wider = [5, mask, 7, mask, 9], [5, mask, 7, mask, 9, mask, mask, mask]
    found = unmask.infill(tiny_model, [prompt], "confidence:1", append=3)
    whole = unmask.infill(tiny_model, [wider], "confidence:1")
    assert torch.equal(found.tokens, whole.tokens) and found.tokens.shape == (1, 5)
    alone = unmask.infill(tiny_model, [[5, 6]], "confidence:1", append=4)
    answer = unmask.generate(tiny_model, [[5, 6]], "confidence:1", max_new_tokens=4)
    assert torch.equal(alone.tokens, answer.tokens)
    with pytest.raises(UnmaskError, match="append is 3 without infill"):
        unmask.generate(tiny_model, [prompt], "confidence:1", append=3, max_new_tokens=4)


def test_a_canvas_longer_than_the_model_was_made_for_warns(tiny_model):
    most = tiny_model.network.config.max_position_embeddings
    with pytest.warns(UserWarning, match=f"this model was made for {most}"):
        unmask.generate(tiny_model, [[5] * (most - 1)], "confidence:8", max_new_tokens=8)


def test_prompts_that_are_no_list_say_what_to_give(tiny_model):
    """A text, a batch of token ids, and anything else."""
    ids = torch.tensor([tiny_model.tokenizer("7 a +5 =")["input_ids"]])
    for prompts, says in (
        ("7 a +5 =", r"the text '7 a \+5 ='; give a list of prompts: \[text\]"),
        (ids, r"array \[1, 4\]; give a list of prompts: list\(ids\)"),
        (ids.numpy(), r"array \[1, 4\]; give a list"),
        (7, "prompts is 7; give a list of prompts"),
    ):
        with pytest.raises(UnmaskError, match=says):
            check_prompts(prompts)
