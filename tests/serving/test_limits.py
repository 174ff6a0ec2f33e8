"""Keys, limits, time, failures: what a server refuses, on real sockets in this process."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest

from tests.serving.server import serve_here
from unmask import UnmaskError
from unmask.decoding import DecodeOptions, constraints
from unmask.serving import Limits, build_catalog, run
from unmask.serving.answers import Update
from unmask.serving.catalog import merge_options
from unmask.serving.protocol import CompletionBody
from unmask.serving.worker import Job

PROMPT = "1 a +2 b +3 ="


def catalog_of(tiny_dir, slots=4, policies=("confidence:1",), **limits):
    options = DecodeOptions(max_new_tokens=24)
    models = [f"tiny={tiny_dir}"]
    return build_catalog(models, policies, options, Limits(**limits), slots=slots, dtype="float32")


def ask(url, timeout=300, **body):
    body = {"model": "tiny", "prompt": PROMPT} | body
    return httpx.post(f"{url}/v1/completions", json=body, timeout=timeout)


def wait_until(holds, seconds=120):
    """Waits until a condition holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


class Gated:
    """Decides as another policy does, but waits in each step after the free ones until its gate is
    open, or fails."""

    def __init__(self, policy, fails=False, free=0):
        self.policy, self.needs, self.fails, self.free = policy, policy.needs, fails, free
        self.gate = threading.Event()

    def act(self, observation, generator):
        self.free -= 1
        if self.free < 0:
            self.gate.wait()
        if self.fails:
            raise RuntimeError("out of memory")
        return self.policy.act(observation, generator)


@contextlib.contextmanager
def serve_gated(tiny_dir, fails=False, free=0, **limits):
    """A server whose policy `gated` waits at a gate; yields its URL, its worker and the gate, which
    is opened at the end."""
    catalog = catalog_of(tiny_dir, **limits)
    policy = Gated(catalog.policies["confidence:1"], fails, free)
    catalog.policies["gated"] = policy
    with serve_here(catalog) as url:
        try:
            yield url, catalog.models["tiny"].worker, policy.gate
        finally:
            policy.gate.set()


def ask_beside(url, answers, **body):
    """Asks on a thread, which puts the answer into a list."""
    body |= {"unmask": {"policy": "gated"}}
    thread = threading.Thread(target=lambda: answers.append(ask(url, **body)))
    thread.start()
    return thread


def test_a_key_is_asked_for_everywhere_but_on_the_page(tiny_dir):
    with serve_here(catalog_of(tiny_dir), key="secret", cors=["https://example.org"]) as url:
        client = httpx.Client(timeout=60)
        for path in ("/v1/models", "/metrics", "/playground/examples?model=tiny"):
            assert client.get(url + path).status_code == 401
            for header in ("Bearer wrong", "secret", "Basic secret", "Bearer"):
                answer = client.get(url + path, headers={"Authorization": header})
                assert answer.status_code == 401
                assert answer.json()["error"]["code"] == "invalid_api_key"
            right = client.get(url + path, headers={"Authorization": "Bearer secret"})
            assert right.status_code == 200
        for path in ("/", "/health", "/playground/static/app.js"):
            assert client.get(url + path).status_code == 200
        asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
        allowed = client.options(f"{url}/v1/completions", headers=asked)
        assert allowed.headers["access-control-allow-origin"] == "https://example.org"
        # OpenAI's client for browsers sends headers of its own.
        asked["Access-Control-Request-Headers"] = "authorization,content-type,x-stainless-lang"
        allowed = client.options(f"{url}/v1/completions", headers=asked)
        assert allowed.status_code == 200
        assert "x-stainless-lang" in allowed.headers["access-control-allow-headers"]
        asked["Origin"] = "https://elsewhere.org"
        refused = client.options(f"{url}/v1/completions", headers=asked)
        assert "access-control-allow-origin" not in refused.headers


def test_limits_of_rows_tokens_and_bodies(tiny_dir):
    limits = {"max_rows": 4, "max_row_tokens": 40, "max_body_bytes": 2000}
    with serve_here(catalog_of(tiny_dir, **limits)) as url:
        assert ask(url, n=4).status_code == 200
        assert ask(url, n=5).json()["error"]["param"] == "n"
        assert ask(url, prompt=[PROMPT] * 3, n=2).status_code == 400
        long = ask(url, max_tokens=40).json()["error"]
        assert long["code"] == "context_length_exceeded"
        assert ask(url, suffix="# 6", max_tokens=10**9).status_code == 400
        assert ask(url, prompt="1 " * 1500).status_code == 413


def test_a_default_block_length_fits_itself_to_each_requests_length(tiny_dir):
    options = DecodeOptions(block_length=60)  # the model's own L is 51
    catalog = build_catalog([f"tiny={tiny_dir}"], ["confidence:1"], options, Limits())
    for asked, found in ((None, 51), (12, 12), (64, 60)):
        body = CompletionBody(model="tiny", prompt=PROMPT, max_tokens=asked)
        assert merge_options(catalog.models["tiny"], body).block_length == found
    catalog.close()


def test_choices_of_the_server_decide_the_length_where_nobody_gives_one(tiny_dir):
    options = DecodeOptions(block_length=60, choices=("# 5", "# 6 . # 6"))
    catalog = build_catalog([f"tiny={tiny_dir}"], ["confidence:1"], options, Limits())
    served = catalog.models["tiny"]
    assert served.length == 5
    for length, own, found in ((None, {}, 5), (12, {}, 12), (None, {"choices": ["7"]}, 1)):
        body = CompletionBody(model="tiny", prompt=PROMPT, max_tokens=length, unmask=own)
        merged = merge_options(served, body)
        assert (merged.max_new_tokens, merged.block_length) == (found, found)
    body = CompletionBody(model="tiny", prompt=PROMPT, unmask={"choices": []})
    assert merge_options(served, body).max_new_tokens == 51  # the model's own
    catalog.close()
    options = DecodeOptions(max_new_tokens=24, choices=("# 5",))
    catalog = build_catalog([f"tiny={tiny_dir}"], ["confidence:1"], options, Limits())
    body = CompletionBody(model="tiny", prompt=PROMPT, unmask={"choices": ["7"]})
    assert merge_options(catalog.models["tiny"], body).max_new_tokens == 24
    catalog.close()


@pytest.mark.parametrize(
    ("options", "limits", "said"),
    [
        ({"cache": "dual"}, {}, "model 'blocks' cannot be .* cache is 'dual'; .* leave it out"),
        ({"block_length": 8}, {}, "model 'blocks' cannot be .* block_length is 8; .* give 16"),
        ({"choices": ("zebra",)}, {}, "model 'tiny' cannot be .* 'zebra'"),
        (
            {"max_new_tokens": 40},
            {"max_row_tokens": 40},
            "model 'tiny' cannot be .* max_new_tokens 40: max_row_tokens is 40, .* give more",
        ),
    ],
)
def test_options_that_a_model_cannot_take_are_refused_at_the_start(tiny_dir, options, limits, said):
    models, before = [f"tiny={tiny_dir}", "blocks=embedded/chain-blocks"], threading.active_count()
    with pytest.raises(UnmaskError, match=said):
        build_catalog(models, ["confidence:1"], DecodeOptions(**options), Limits(**limits))
    assert threading.active_count() == before  # no engine runs


def test_choices_are_tokenized_once_for_all_answers(tiny_dir, monkeypatch):
    encoded, encode = [], constraints.encode_choice

    def count(model, text):
        encoded.append(text)
        return encode(model, text)

    monkeypatch.setattr(constraints, "encode_choice", count)
    choices = ["# 1", "# 2", "# 3"]
    with serve_here(catalog_of(tiny_dir)) as url:
        answer = ask(url, prompt=[PROMPT, "7 a +1 ="], n=3, unmask={"choices": choices})
    assert {choice["text"] for choice in answer.json()["choices"]} <= set(choices)
    assert encoded == choices


def test_what_does_not_fit_beside_other_rows_can_be_asked_for_later(tiny_dir, monkeypatch):
    with serve_gated(tiny_dir) as (url, worker, gate):
        answers, refused = [], []
        threads = [ask_beside(url, answers)]
        wait_until(lambda: worker.engine.schedule.active)
        threads.append(ask_beside(url, refused, max_tokens=60))
        wait_until(lambda: worker.arrived)
        monkeypatch.setattr("unmask.memory.free_memory", lambda device: 0)
        gate.set()
        for thread in threads:
            thread.join()
        assert answers[0].status_code == 200
        assert refused[0].status_code == 503 and refused[0].headers["retry-after"] == "1"
        error = refused[0].json()["error"]
        assert error["code"] == "no_memory" and "try again later" in error["message"]
        never = ask(url, max_tokens=60)  # an idle server cannot answer it either
        assert never.status_code == 400 and "GiB" in never.json()["error"]["message"]


def test_failures_of_the_server_are_counted(tiny_dir, monkeypatch):
    def fail(job):
        raise RuntimeError("no such luck")

    catalog = catalog_of(tiny_dir)
    monkeypatch.setattr(catalog.models["tiny"].worker, "submit", fail)
    with serve_here(catalog) as url:
        assert ask(url).status_code == 500
        text = httpx.get(f"{url}/metrics", timeout=60).text
    assert 'unmask_requests_total{route="/v1/completions",status="500"} 1.0' in text


def test_a_full_queue_refuses_and_recovers(tiny_dir):
    with serve_gated(tiny_dir, max_queue=6) as (url, _, gate):
        answers = []
        threads = [ask_beside(url, answers, n=2) for _ in range(6)]
        wait_until(lambda: len(answers) == 3)
        for refused in answers:
            assert refused.status_code == 429
            assert refused.json()["error"]["type"] == "rate_limit_error"
            assert refused.headers["retry-after"] == "1"
        gate.set()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers[3:]] == [200] * 3
        assert ask(url, n=6).status_code == 200
        never = ask(url, n=7)
        assert never.status_code == 400 and never.json()["error"]["param"] == "n"


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_is_given_up(tiny_dir, stream):
    with serve_gated(tiny_dir, timeout=0.5) as (url, worker, gate):
        late = ask(url, unmask={"policy": "gated"}, stream=stream)
        assert '"code":"timeout"' in late.text.replace(" ", "") and "[DONE]" not in late.text
        assert late.status_code == (200 if stream else 504)
        gate.set()
        wait_until(lambda: worker.engine.idle and not worker.owner)


def test_a_stream_whose_client_does_not_read_is_given_up_in_time(tiny_dir, monkeypatch):
    listen = run.open_socket

    def open_small(host, port):
        bound = listen(host, port)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # of its connections too
        return bound

    monkeypatch.setattr(run, "open_socket", open_small)
    own = {"policy": "gated", "canvas": True}
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 200, "n": 4, "stream": True}
    content = json.dumps(body | {"unmask": own}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(content)}\r\n"
    # The canvases of 40 passes are more than what the buffers between server and client hold.
    with (
        serve_gated(tiny_dir, free=40, timeout=2) as (url, worker, gate),
        socket.socket() as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((urlsplit(url).hostname, urlsplit(url).port))
        client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + content)
        wait_until(lambda: worker.dropped, 20)
        gate.set()
        wait_until(lambda: worker.engine.idle and not worker.owner)
        client.settimeout(60)
        said = b"".join(iter(lambda: client.recv(2**16), b""))  # the server closes the connection
    assert b"200 OK" in said and not said.endswith(b"0\r\n\r\n") and b"[DONE]" not in said


def test_an_inbox_keeps_the_newest_update_of_each_row_unless_every_step_is_wanted():
    old, other, new = (Update(row, step) for row, step in ((0, 3), (1, 3), (0, 4)))
    done = [Update(row, 5, steps=(5,)) for row in (0, 1)]

    async def read(watch):
        job = Job([None, None], watch, 60)  # type: ignore[list-item]  # requests are not looked at
        for said in ([old, other], [new]):
            job.put(said)
        updates = job.updates()
        found = [await anext(updates)]
        job.put(done)
        return found + [update async for update in updates]

    assert asyncio.run(read("newest")) == [other, new, *done]
    assert asyncio.run(read("steps")) == [old, other, new, *done]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot_at_the_next_step(tiny_dir, stream):
    async def leave(url, worker):
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            body = {"model": "tiny", "prompt": PROMPT, "stream": stream}
            asked = client.post("/v1/completions", json=body | {"unmask": {"policy": "gated"}})
            task = asyncio.create_task(asked)
            while not worker.engine.schedule.active:
                await asyncio.sleep(0.01)
            task.cancel()

    with serve_gated(tiny_dir) as (url, worker, gate):
        asyncio.run(leave(url, worker))
        wait_until(lambda: worker.dropped)
        gate.set()
        wait_until(lambda: worker.engine.idle and not worker.owner)
        assert not worker.passes
        text = httpx.get(f"{url}/metrics", timeout=60).text
        assert 'unmask_rows_cancelled_total{model="tiny"} 1.0' in text
        assert 'unmask_rows_finished_total{model="tiny"} 0.0' in text
        assert 'unmask_step_seconds_count{model="tiny"} 1.0' in text  # the answer would take 24


def test_an_engine_that_fails_tells_its_clients_and_goes_on(tiny_dir):
    with serve_gated(tiny_dir, fails=True) as (url, _, gate):
        gate.set()
        for stream in (False, True):
            failed = ask(url, unmask={"policy": "gated"}, stream=stream)
            assert failed.status_code == (200 if stream else 500)
            assert "the engine failed" in failed.text and "memory" not in failed.text
        assert ask(url).status_code == 200
        assert httpx.get(f"{url}/health", timeout=60).status_code == 200


def test_a_closed_worker_finishes_what_it_took(tiny_dir):
    with serve_gated(tiny_dir) as (url, worker, gate):
        answers = []
        asking = ask_beside(url, answers, n=3)
        wait_until(lambda: len(worker.engine.schedule.active) == 3)
        closing = threading.Thread(target=worker.close)
        closing.start()
        wait_until(lambda: worker.closing)
        assert ask(url).status_code == 503
        gate.set()
        asking.join()
        closing.join()
        assert answers[0].status_code == 200 and len(answers[0].json()["choices"]) == 3
