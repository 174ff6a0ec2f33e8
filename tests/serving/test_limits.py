"""Keys, limits, time, failures: what a server refuses, on real sockets in this process."""

import asyncio
import threading
import time

import httpx
import pytest

from tests.serving.server import serve_here
from unmask.decoding import DecodeOptions
from unmask.serving import Limits, build_catalog

PROMPT = "1 a +2 b +3 ="


def catalog_of(tiny_dir, slots=4, policies=("confidence:1",), **limits):
    options = DecodeOptions(max_new_tokens=24)
    models = [f"tiny={tiny_dir}"]
    return build_catalog(models, policies, options, Limits(**limits), slots=slots, dtype="float32")


def ask(url, timeout=60, **body):
    body = {"model": "tiny", "prompt": PROMPT} | body
    return httpx.post(f"{url}/v1/completions", json=body, timeout=timeout)


class Slow:
    """Takes its time, or fails, in every step."""

    def __init__(self, policy, seconds=0.0, fails=False):
        self.policy, self.needs, self.seconds, self.fails = policy, policy.needs, seconds, fails

    def act(self, observation, generator):
        time.sleep(self.seconds)
        if self.fails:
            raise RuntimeError("out of memory")
        return self.policy.act(observation, generator)


def slow_catalog(tiny_dir, seconds=0.0, fails=False, **limits):
    catalog = catalog_of(tiny_dir, **limits)
    catalog.policies["slow"] = Slow(catalog.policies["confidence:1"], seconds, fails)
    return catalog


def test_a_key_is_asked_for_everywhere_but_on_the_page(tiny_dir):
    with serve_here(catalog_of(tiny_dir), key="secret", cors=["https://example.org"]) as url:
        for path in ("/v1/models", "/metrics", "/playground/examples?model=tiny"):
            assert httpx.get(url + path).status_code == 401
            for header in ("Bearer wrong", "secret", "Basic secret", "Bearer"):
                answer = httpx.get(url + path, headers={"Authorization": header})
                assert answer.status_code == 401
                assert answer.json()["error"]["code"] == "invalid_api_key"
            right = httpx.get(url + path, headers={"Authorization": "Bearer secret"})
            assert right.status_code == 200
        for path in ("/", "/health", "/playground/static/app.js"):
            assert httpx.get(url + path).status_code == 200
        asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
        allowed = httpx.options(f"{url}/v1/completions", headers=asked)
        assert allowed.headers["access-control-allow-origin"] == "https://example.org"
        asked["Origin"] = "https://elsewhere.org"
        refused = httpx.options(f"{url}/v1/completions", headers=asked)
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


def test_a_full_queue_refuses_and_recovers(tiny_dir):
    with serve_here(slow_catalog(tiny_dir, 0.02, max_queue=6)) as url:
        answers = []
        threads = [
            threading.Thread(
                target=lambda: answers.append(ask(url, n=2, unmask={"policy": "slow"}))
            )
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200] * 3 + [429] * 3
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert refused.headers["retry-after"] == "1"
        assert ask(url, n=6).status_code == 200


def test_a_request_that_takes_too_long_is_given_up(tiny_dir):
    catalog = slow_catalog(tiny_dir, 0.2, timeout=2.0)  # an answer takes 4.8 s
    with serve_here(catalog) as url:
        late = ask(url, unmask={"policy": "slow"})
        assert late.status_code == 504 and late.json()["error"]["code"] == "timeout"
        streamed = ask(url, unmask={"policy": "slow"}, stream=True)
        assert '"code": "timeout"' in streamed.text and "[DONE]" not in streamed.text
        wait_until_idle(catalog)
        assert ask(url).status_code == 200


def wait_until_idle(catalog):
    worker = next(iter(catalog.models.values())).worker
    for _ in range(200):
        if worker.engine.idle and not worker.owner:
            return
        time.sleep(0.02)
    raise AssertionError("rows are still there")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot_at_the_next_step(tiny_dir, stream):
    catalog = slow_catalog(tiny_dir, 0.05)
    worker = catalog.models["tiny"].worker

    async def leave(url):
        async with httpx.AsyncClient(base_url=url) as client:
            body = {"model": "tiny", "prompt": PROMPT, "stream": stream}
            asked = client.post("/v1/completions", json=body | {"unmask": {"policy": "slow"}})
            task = asyncio.create_task(asked)
            while not worker.engine.schedule.active:
                await asyncio.sleep(0.01)
            task.cancel()

    with serve_here(catalog) as url:
        asyncio.run(leave(url))
        wait_until_idle(catalog)
        assert not worker.passes
        text = httpx.get(f"{url}/metrics").text
        assert 'unmask_rows_cancelled_total{model="tiny"} 1.0' in text
        assert 'unmask_rows_finished_total{model="tiny"} 0.0' in text
        steps = next(line for line in text.splitlines() if "step_seconds_count" in line)
        assert float(steps.split()[-1]) < 24  # the answer would take 24


def test_an_engine_that_fails_tells_its_clients_and_goes_on(tiny_dir):
    catalog = slow_catalog(tiny_dir, fails=True)
    with serve_here(catalog) as url:
        for stream in (False, True):
            failed = ask(url, unmask={"policy": "slow"}, stream=stream)
            assert failed.status_code == (200 if stream else 500)
            assert "the engine failed" in failed.text and "memory" not in failed.text
        assert ask(url).status_code == 200
        assert httpx.get(f"{url}/health").status_code == 200


def test_a_closed_worker_finishes_what_it_took(tiny_dir):
    catalog = slow_catalog(tiny_dir, 0.01)
    with serve_here(catalog) as url:
        answers = []
        thread = threading.Thread(
            target=lambda: answers.append(ask(url, n=3, unmask={"policy": "slow"}))
        )
        thread.start()
        while not catalog.models["tiny"].worker.engine.schedule.active:
            time.sleep(0.01)
        catalog.close()
        thread.join()
        assert answers[0].status_code == 200 and len(answers[0].json()["choices"]) == 3
        assert ask(url).status_code == 503
