"""The official client, litellm and plain HTTP talk to a real server."""

import json
import os
from dataclasses import fields

import httpx
import openai
import pytest

import unmask
from unmask.decoding import DecodeOptions
from unmask.serving.protocol import NO_DECODE_OPTIONS, UnmaskOptions

MODEL = "embedded/chain"
PROMPT = "7 a +5 b *3 ="
CHAT = [{"role": "user", "content": PROMPT}]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        yield client


def alone(model, prompts, policy="threshold:0.9", **settings):
    settings = {"max_new_tokens": 48} | settings
    return unmask.generate(model, prompts, policy, **settings)


def test_models_are_listed_with_their_policies(client):
    (model,) = client.models.list().data
    assert model.id == MODEL == client.models.retrieve(MODEL).id
    offered = {policy["name"]: policy for policy in model.unmask["policies"]}
    assert set(offered) == {"threshold:0.9", "single", "range", "flat", "noisy", "blocks"}
    single = {"name": "single", "learned": True, "model": MODEL, "block_length": None}
    assert offered["single"] == single and offered["blocks"]["block_length"] == 16
    assert model.unmask["model"] == MODEL and model.unmask["block_length"] is None
    assert offered["range"]["nfe"] == [12.0, 9.0, 4.0] and not offered["threshold:0.9"]["learned"]
    assert offered["range"]["alphas"] == sorted(offered["range"]["alphas"])  # each beside its NFE


def test_a_chat_is_answered_with_its_cost(client, chain):
    answer = client.chat.completions.create(model=MODEL, messages=CHAT)
    wanted = alone(chain, [CHAT])
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == (wanted.text[0], "stop")
    nfe, tokens = int(wanted.nfe[0]), int(wanted.answer_tokens[0])
    assert answer.usage.completion_tokens == tokens
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + tokens
    assert answer.unmask["nfe"] == choice.unmask["nfe"] == nfe
    assert answer.unmask["tokens_per_pass"] == pytest.approx(tokens / nfe, abs=1e-4)
    assert answer.unmask["policy"] == "threshold:0.9"


def test_parts_of_text_and_the_names_of_both_lengths_are_taken(client):
    parts = [{"type": "text", "text": "7 a +5 "}, {"type": "text", "text": "b *3 ="}]
    messages = [{"role": "user", "content": parts}]
    answers = [
        client.chat.completions.create(model=MODEL, messages=m, **length).choices[0]
        for m, length in ((messages, {"max_completion_tokens": 8}), (CHAT, {"max_tokens": 8}))
    ]
    assert answers[0] == answers[1]


def test_completions_take_texts_lists_and_token_ids(client, chain):
    other = "3 a -1 b +4 ="
    ids = [chain.tokenizer(text)["input_ids"] for text in (PROMPT, other)]
    wanted = alone(chain, [PROMPT, other]).text
    for prompt in ([PROMPT, other], ids):
        answer = client.completions.create(model=MODEL, prompt=prompt)
        assert [choice.text for choice in answer.choices] == wanted
        assert [choice.index for choice in answer.choices] == [0, 1]
    for prompt in (PROMPT, ids[0]):
        (choice,) = client.completions.create(model=MODEL, prompt=prompt).choices
        assert choice.text == wanted[0]


def test_an_empty_prompt_is_answered(client, chain):
    wanted = alone(chain, [""])
    answer = client.completions.create(model=MODEL, prompt="")
    assert answer.choices[0].text == wanted.text[0] and answer.usage.prompt_tokens == 0
    answer = client.completions.create(model=MODEL, prompt=["", PROMPT])
    assert [choice.text for choice in answer.choices] == [
        wanted.text[0],
        alone(chain, [PROMPT]).text[0],
    ]


def test_a_suffix_is_kept_behind_what_is_filled_in(client, chain):
    prompt, suffix = f"{PROMPT} a so 2 is 7", "# 6"
    answer = client.completions.create(model=MODEL, prompt=prompt, suffix=suffix, max_tokens=12)
    before, behind = (chain.tokenizer(text)["input_ids"] for text in (prompt, suffix))
    canvas = [*before, *[chain.mask_id] * 12, *behind]
    filled = unmask.infill(chain, [canvas], "threshold:0.9").tokens[0].tolist()
    ends = [i for i, token in enumerate(filled) if token in chain.eos_ids]
    text = chain.tokenizer.decode(filled[: ends[0] if ends else None], skip_special_tokens=True)
    assert answer.choices[0].text == text
    assert answer.usage.prompt_tokens == len(before) + len(behind)


@pytest.mark.parametrize("policy", ["threshold:0.9", "single", "range"])
def test_samples_are_those_of_generate(client, chain, policy_dirs, policy):
    extra = {"unmask": {"policy": policy}}
    answer = client.completions.create(
        model=MODEL, prompt=PROMPT, n=3, temperature=1.0, top_p=0.95, seed=11, extra_body=extra
    )
    sampler = str(policy_dirs.get(policy, policy))
    settings = {"temperature": 1.0, "top_p": 0.95, "seed": 11}
    wanted = alone(chain, [PROMPT] * 3, sampler, **settings)
    assert [choice.text for choice in answer.choices] == wanted.text
    assert [choice.unmask["nfe"] for choice in answer.choices] == wanted.nfe.tolist()


def test_alpha_and_a_target_nfe_steer_a_policy_for_a_range(client, chain, policy_dirs):
    for own, setting in (({"alpha": 3.0}, "alpha=3"), ({"target_nfe": 6}, "nfe=6")):
        extra = {"unmask": {"policy": "range", **own}}
        answer = client.completions.create(model=MODEL, prompt=PROMPT, extra_body=extra)
        policy = unmask.load_policy(f"{policy_dirs['range']}@{setting}")
        wanted = alone(chain, [PROMPT], policy)
        assert answer.choices[0].text == wanted.text[0]
        assert answer.unmask["alpha"] == pytest.approx(policy.alpha)


def test_the_ends_of_the_range_of_nfe_that_is_shown_can_be_asked_for(client):
    (model,) = client.models.list().data
    shown = {policy["name"]: policy.get("nfe") for policy in model.unmask["policies"]}
    assert shown["noisy"] == [12.0, 9.0, 9.0]  # measured from the smallest α on: 12, 4, 9
    for name in ("range", "noisy"):
        for nfe in shown[name]:
            extra = {"unmask": {"policy": name, "target_nfe": nfe}}
            client.completions.create(model=MODEL, prompt=PROMPT, extra_body=extra)


def test_streams_add_up_to_the_whole_answer(client):
    settings = {"model": MODEL, "n": 2, "temperature": 0.7, "seed": 5}
    whole = client.chat.completions.create(messages=CHAT, **settings)
    texts, ends, usages = {0: "", 1: ""}, {}, []
    with client.chat.completions.create(
        messages=CHAT, stream=True, stream_options={"include_usage": True}, **settings
    ) as chunks:
        for chunk in chunks:
            usages.append(chunk.usage)
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                if choice.finish_reason:
                    ends[choice.index] = choice.finish_reason
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usages[-1] == whole.usage and set(usages[:-1]) == {None}


def test_a_stream_shows_every_canvas(client, chain):
    extra = {"unmask": {"policy": "confidence:2", "canvas": True}}
    parts = list(
        client.completions.create(model=MODEL, prompt=PROMPT, stream=True, extra_body=extra)
    )
    canvases = [part.unmask["canvas"] for part in parts if getattr(part, "unmask", None)]
    steps = list(unmask.stream(chain, [PROMPT], "confidence:2", max_new_tokens=48))
    assert [canvas["pass"] for canvas in canvases] == list(range(1, len(steps) + 1))
    for canvas, step in zip(canvases, steps, strict=True):
        revealed = [place["position"] for place in canvas["revealed"]]
        assert revealed == step.fresh[0].nonzero().flatten().tolist()
        masked = [i for i, text in enumerate(canvas["canvas"]) if text is None]
        assert masked == (step.tokens[0] == chain.mask_id).nonzero().flatten().tolist()
        for place in canvas["revealed"]:
            assert place["token"] == int(step.tokens[0, place["position"]])
            sure = float(step.confidence[0, place["position"]])
            assert place["confidence"] == pytest.approx(sure, abs=1e-3)


def test_tokens_allowed_at_each_position_and_choices_are_those_of_generate(client, chain):
    digit = chain.tokenizer("2")["input_ids"][0]
    for given in ({"allowed": [["#"], None, ["1", digit]]}, {"choices": ["# 5", "# 6"]}):
        answer = client.completions.create(
            model=MODEL, prompt=[PROMPT, "1 a +2 ="], max_tokens=6, extra_body={"unmask": given}
        )
        wanted = alone(chain, [PROMPT, "1 a +2 ="], max_new_tokens=6, **given)
        assert [choice.text for choice in answer.choices] == wanted.text
        assert [choice.unmask["nfe"] for choice in answer.choices] == wanted.nfe.tolist()
        assert all(text.startswith("#") for text in wanted.text)
    filled = client.completions.create(
        model=MODEL,
        prompt="7 a +5 b *3 = a then",
        suffix="+5 gives 2",
        max_tokens=1,
        extra_body={"unmask": {"allowed": [["3"]]}},
    )
    assert filled.choices[0].text.strip() == "3"


def test_choices_without_a_length_are_as_long_as_the_longest(client, chain):
    choices = ["# 5", "# 6"]
    for extra in ({}, {"block_length": 16}):
        given = {"choices": choices} | extra
        answer = client.completions.create(model=MODEL, prompt=PROMPT, extra_body={"unmask": given})
        wanted = unmask.generate(chain, [PROMPT], "threshold:0.9", **given)
        assert answer.choices[0].text == wanted.text[0]
        assert answer.choices[0].unmask["nfe"] == int(wanted.nfe[0])
    filled = client.completions.create(
        model=MODEL, prompt=PROMPT, suffix="# 6", extra_body={"unmask": {"choices": choices}}
    )
    assert filled.choices[0].text in choices


def test_an_answer_without_an_end_has_the_reason_length(client):
    extra = {"unmask": {"eos": "never"}}
    answer = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=8, extra_body=extra)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8


def test_text_ends_before_a_stop_string(client, chain):
    wanted = alone(chain, [PROMPT], stop=("gives",)).text[0]
    for stop in ("gives", ["#", "gives"]):
        (choice,) = client.completions.create(model=MODEL, prompt=PROMPT, stop=stop).choices
        assert (choice.text, choice.finish_reason) == (wanted, "stop")
    chunks = client.completions.create(model=MODEL, prompt=PROMPT, stop="gives", stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == wanted


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"logit_bias": {"1": 5}}, 400, "logit_bias"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty"),
        ({"extra_body": {"unmask": {"speed": 3}}}, 400, "unmask.speed"),
        ({"model": "other"}, 404, "model"),
        ({"temperature": -1}, 400, "temperature"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 10**15}, 400, "max_tokens"),
        ({"n": 10**9}, 400, "n"),
        ({"seed": -1}, 400, "seed"),
        ({"stop": ["a"] * 65}, 400, "stop"),
        ({"stop": "a" * 1001}, 400, "stop"),
        ({"prompt": "no such words"}, 400, None),
        ({"prompt": [10**9]}, 400, None),
        ({"prompt": "1 a +2 = <mask>"}, 400, "prompt"),
        ({"suffix": "<mask>"}, 400, "suffix"),
        ({"prompt": []}, 400, "prompt"),
        ({"extra_body": {"unmask": {"policy": "/etc"}}}, 400, "unmask.policy"),
        ({"extra_body": {"unmask": {"policy": "threshold:7"}}}, 400, None),
        ({"extra_body": {"unmask": {"alpha": 1}}}, 400, "unmask.alpha"),
        ({"extra_body": {"unmask": {"policy": "range", "target_nfe": 99}}}, 400, None),
        ({"extra_body": {"unmask": {"canvas": True}}}, 400, "unmask.canvas"),
        ({"extra_body": {"unmask": {"block_length": 100}}}, 400, "block_length"),
        ({"extra_body": {"unmask": {"choices": ["zebra"]}}}, 400, None),
        ({"extra_body": {"unmask": {"allowed": "digits"}}}, 400, "unmask.allowed"),
        ({"extra_body": {"unmask": {"allowed": [5]}}}, 400, "allowed"),
        ({"extra_body": {"unmask": {"allowed": [[True]]}}}, 400, "allowed"),
        ({"extra_body": {"unmask": {"allowed": [["7 7"]]}}}, 400, "allowed"),
        ({"extra_body": {"unmask": {"allowed": [["zebra"]]}}}, 400, None),
        ({"extra_body": {"unmask": {"allowed": [[10**9]]}}}, 400, "allowed"),
        ({"extra_body": {"unmask": {"allowed": [None, []]}}}, 400, "allowed"),
        ({"extra_body": {"unmask": {"allowed": [["7"]] * 49}}}, 400, "allowed"),
        ({"extra_body": {"unmask": {"allowed": [list(range(20_000))]}}}, 400, "unmask.allowed"),
        ({"extra_body": {"unmask": {"allowed": [["7"]], "choices": ["7"]}}}, 400, "allowed"),
        ({"extra_body": {"unmask": {"allowed": [["7"]], "eos": "never"}}}, 400, "allowed"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_openais_shape(client, change, status, param):
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(**{"model": MODEL, "prompt": PROMPT} | change)
    error = caught.value
    assert error.status_code == status and set(error.body) == {"message", "type", "param", "code"}
    assert error.param == param, error.body
    if "speed" in str(change) or "penalty" in str(change) or "bias" in str(change):
        assert f"does not support {param}" in error.body["message"]
    if param == "stop":
        assert "give at most 64, of at most 1000 characters each" in error.body["message"]


def test_fields_that_ask_for_nothing_are_taken(client):
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[*CHAT[:0], {"role": "user", "content": PROMPT, "name": None}],
        frequency_penalty=0,
        presence_penalty=0.0,
        logit_bias={},
        logprobs=False,
        response_format={"type": "text"},
        tools=[],
        user="somebody",
    )
    assert answer.choices[0].message.content


def test_every_decode_option_can_be_asked_for():
    names = {field.name for field in fields(DecodeOptions)}
    openais = {"max_new_tokens", "temperature", "top_p", "seed", "stop"}
    extensions = set(UnmaskOptions.model_fields) - NO_DECODE_OPTIONS
    assert names == openais | extensions


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        (b'{"model": "embedded/chain", "prompt": "\\ud800"}', 400),
        (b'{"model": "\\ud800", "prompt": "1 a +2 ="}', 400),
        (b'{"model": "embedded/chain", "prompt": "1 a +2 b +3 =", "temperature": NaN}', 400),
        (b'{"model": "embedded/chain", "prompt": "1 a +2 b +3 =", "n": 1e999}', 400),
        (b'{"model": "embedded/chain", "prompt": "1 a +2 b +3 =", "n": true}', 400),
        (b'{"model": "embedded/chain", "prompt": {"a": 1}}', 400),
        (b'{"model": "embedded/chain", "prompt": "1 a +2 b +3 =", "stop": ["\\ud800"]}', 400),
        (b" " * (2**20 + 1), 413),
    ],
)
def test_bodies_that_are_no_request_are_refused(server, data, status):
    headers = {"Content-Type": "application/json"}
    for chunked in (False, True):
        content = iter([data[:10], data[10:]]) if chunked else data
        response = httpx.post(
            f"{server}/v1/completions", content=content, headers=headers, timeout=60
        )
        assert response.status_code == status, response.text
        assert response.json()["error"]["message"]


def test_where_a_body_is_no_json_is_said(server):
    body = b'{"model": "embedded/chain", "prompt": }'
    headers = {"Content-Type": "application/json"}
    response = httpx.post(f"{server}/v1/completions", content=body, headers=headers, timeout=60)
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] is None
    assert error["message"].startswith("the body is no JSON at character 38")


def test_other_routes_answer_too(server, chain):
    client = httpx.Client(base_url=server, timeout=60)
    assert client.get("/health").json() == {"status": "ok"}
    missing = client.get("/v1/nothing")
    assert missing.status_code == 404 and missing.json()["error"]["type"]
    assert client.get("/v1/completions").status_code == 405
    choices = ["# 3", "# 4"]
    body = {"model": MODEL, "prompt": "1 a +2 =", "unmask": {"choices": choices}}
    answered = client.post("/v1/completions", json=body)
    assert answered.status_code == 200
    wanted = unmask.generate(chain, ["1 a +2 ="], "threshold:0.9", choices=choices)
    assert answered.json()["choices"][0]["text"] == wanted.text[0]
    body = {"model": MODEL, "prompt": "1 a +2 = " * 3000, "text": "# 3"}
    assert client.post("/playground/verdict", json=body).json() == {"correct": None}
    metrics = client.get("/metrics").text
    for name in ("passes_total", "tokens_total", "queue", "rows_in_flight", "step_seconds_count"):
        assert f'unmask_{name}{{model="{MODEL}"}}' in metrics
    assert 'unmask_requests_total{route="/v1/completions",status="200"}' in metrics


@pytest.mark.filterwarnings("ignore::UserWarning")  # litellm's own, of its types
def test_litellm_talks_to_it(server, chain):
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would ask the network
    litellm = pytest.importorskip("litellm")
    settings = {"model": f"openai/{MODEL}", "api_base": f"{server}/v1", "api_key": "none"}
    wanted = alone(chain, [CHAT]).text[0]
    answer = litellm.completion(messages=CHAT, **settings)
    assert answer.choices[0].message.content == wanted
    parts = litellm.completion(messages=CHAT, stream=True, **settings)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == wanted
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.completion(messages=CHAT, temperature=-1, **settings)


def test_fuzzed_bodies_never_break_it(server):
    """A few cases of schemathesis; tests/serving/load.py runs more."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_url(f"{server}/openapi.json")
    for route in ("/v1/completions", "/v1/chat/completions"):

        @given(case=schema[route]["POST"].as_strategy())
        @settings(
            max_examples=15,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def run(case):
            response = case.call(timeout=120)
            assert response.status_code < 500, (case.body, response.text)
            if response.status_code >= 400:
                json.loads(response.text)["error"]["message"]

        run()
