"""The server under load: `python -m tests.serving.load` (some 10 minutes; traffic to 127.0.0.1
only). The tests run its parts in a short form.

Every answer is compared with `unmask.generate` alone; clients leave at random; SIGTERM comes while
requests run; the throughput is compared with `generate` on the same prompts.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

MODEL = "embedded/chain"
POLICIES = ("threshold:0.9", "entropy:0.3", "confidence:3", "random:4", "factor:1", "margin:2")


def draw_prompt(rng):
    """A chain of 2 to 6 operations."""
    operations = " ".join(
        f"{name} {rng.choice('+-*')}{rng.randrange(10)}" for name in "abcdef"[: rng.randint(2, 6)]
    )
    return f"{rng.randrange(10)} {operations} ="


def draw_case(rng, learned=()):
    """A route and a body: lengths, options, policies and kinds of prompt are mixed."""
    policy = rng.choice([*POLICIES, *learned])
    own = {"policy": policy}
    if policy == "range":
        own |= rng.choice([{}, {"alpha": rng.choice([0.5, 2.0])}, {"target_nfe": 6.0}])
    length = rng.choice([8, 16, 24, 48, 48, 64, 96])
    if rng.random() < 0.3:
        own["block_length"] = rng.choice([4, 8])
    body = {"model": MODEL, "unmask": own, "max_tokens": length, "seed": rng.randrange(4)}
    if rng.random() < 0.5:
        body["temperature"] = rng.choice([0.5, 1.0, 2.0])
        body["top_p"] = rng.choice([1.0, 0.9])
    if rng.random() < 0.3:
        body["stop"] = rng.choice(["gives", ["#", "so "], ". b"])
    if rng.random() < 0.3:
        body["n"] = rng.randint(2, 3)
    body["stream"] = rng.random() < 0.4
    prompts = [draw_prompt(rng) for _ in range(rng.choice([1, 1, 1, 2]))]
    if rng.random() < 0.3:
        content = prompts[0]
        return "/v1/chat/completions", body | {"messages": [{"role": "user", "content": content}]}
    return "/v1/completions", body | {"prompt": prompts if len(prompts) > 1 else prompts[0]}


def expected_texts(model, policies, body):
    """What `unmask.generate` gives for each prompt alone, n times."""
    import unmask

    own = dict(body["unmask"])
    spec = own.pop("policy")
    for name, setting in (("alpha", "alpha"), ("target_nfe", "nfe")):
        if name in own:
            spec += f"@{setting}={own.pop(name)}"
    name, at, settings = spec.partition("@")
    policy = unmask.load_policy(policies.get(name, name) + at + settings)
    stop = body.get("stop", ())
    settings = {
        "max_new_tokens": body["max_tokens"],
        "temperature": body.get("temperature", 0.0),
        "top_p": body.get("top_p", 1.0),
        "seed": body["seed"],
        "stop": (stop,) if isinstance(stop, str) else tuple(stop),
        **own,
    }
    asked = body.get("prompt", body.get("messages"))
    prompts = asked if isinstance(asked, list) and isinstance(asked[0], str) else [asked]
    texts = []
    for prompt in prompts:
        texts += unmask.generate(model, [prompt] * body.get("n", 1), policy, **settings).text
    return texts


async def read_events(response):
    """The JSON of a stream's events."""
    async for line in response.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def choice_text(choice):
    """The text of a choice or of a part of one."""
    said = choice.get("message") or choice.get("delta")
    return choice["text"] if said is None else said.get("content") or ""


async def answer_texts(client, route, body):
    """The texts that the server gives, in the order of the choices."""
    if not body.get("stream"):
        response = await client.post(route, json=body)
        assert response.status_code == 200, response.text
        choices = response.json()["choices"]
        assert [choice["index"] for choice in choices] == list(range(len(choices)))
        return [choice_text(choice) for choice in choices]
    texts, ended = {}, set()
    async with client.stream("POST", route, json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for event in read_events(response):
            assert "error" not in event, event
            for choice in event["choices"]:
                row = choice["index"]
                texts[row] = texts.get(row, "") + choice_text(choice)
                if choice["finish_reason"]:
                    ended.add(row)
    assert ended == set(texts)
    return [texts[row] for row in range(len(texts))]


def open_client(url):
    limits = httpx.Limits(max_connections=256, max_keepalive_connections=64)
    return httpx.AsyncClient(base_url=url, timeout=600, limits=limits)


async def send_all(url, cases, at_once):
    """Answers of all cases, `at_once` at a time."""
    gate = asyncio.Semaphore(at_once)
    async with open_client(url) as client:

        async def send(route, body):
            async with gate:
                return await answer_texts(client, route, body)

        return await asyncio.gather(*(send(*case) for case in cases))


def compare_answers(url, model, policies, count, at_once, seed=0):
    """Sends `count` mixed requests; how many rows were compared.

    Raises:
        AssertionError: if an answer is not what `generate` gives alone.
    """
    rng = random.Random(seed)
    cases = [draw_case(rng, learned=tuple(policies)) for _ in range(count)]
    answers = asyncio.run(send_all(url, cases, at_once))
    rows = 0
    for (route, body), texts in zip(cases, answers, strict=True):
        wanted = expected_texts(model, policies, body)
        assert texts == wanted, (route, body, texts, wanted)
        rows += len(texts)
    return rows


async def leave_at_random(url, count, at_once, seed=0):
    """Clients that go away before their answer is there, most of them while it is written."""
    rng = random.Random(seed)
    gate = asyncio.Semaphore(at_once)

    async def leave(body, seconds, stream):
        async with gate, httpx.AsyncClient(base_url=url, timeout=600) as client:
            try:
                async with asyncio.timeout(seconds):
                    if stream:
                        async with client.stream("POST", "/v1/completions", json=body) as response:
                            async for _ in response.aiter_lines():
                                pass
                    else:
                        await client.post("/v1/completions", json=body)
            except (TimeoutError, httpx.HTTPError):
                return 1
        return 0

    tasks = []
    for _ in range(count):
        stream = rng.random() < 0.5
        body = {
            "model": MODEL,
            "prompt": draw_prompt(rng),
            "max_tokens": 96,
            "stream": stream,
            "unmask": {"policy": "confidence:1"},
            "n": 2,
        }
        tasks.append(leave(body, rng.uniform(0.01, 0.6), stream))
    return sum(await asyncio.gather(*tasks))


def read_metric(url, name):
    """The value of a metric of the one model."""
    text = httpx.get(f"{url}/metrics", timeout=60).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def wait_until_empty(url, seconds=120):
    """Waits until no row waits or is in flight."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if read_metric(url, "unmask_rows_in_flight{") + read_metric(url, "unmask_queue{") == 0:
            return
        time.sleep(0.05)
    raise AssertionError(f"rows are still there after {seconds} s")


def resident_bytes(process):
    """Memory of a process."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


async def stop_under_load(url, process, count):
    """SIGTERM while `count` requests are being answered; how many were answered.

    Requests that are sent once the server has stopped listening may be refused; those that it took
    must be answered.
    """
    rng = random.Random(1)
    body = {"model": MODEL, "max_tokens": 48, "unmask": {"policy": "confidence:1"}}
    async with open_client(url) as client:

        async def send(stream):
            own = body | {"prompt": draw_prompt(rng), "stream": stream}
            return (await answer_texts(client, "/v1/completions", own))[0]

        tasks = [asyncio.create_task(send(i % 2 == 0)) for i in range(count)]
        for _ in range(600):
            await asyncio.sleep(0.05)
            sent = await asyncio.to_thread(count_accepted, url)
            if sent >= count:
                break
        process.send_signal(signal.SIGTERM)
        texts = await asyncio.gather(*tasks)
    assert process.wait(timeout=60) == 0, process.returncode
    return len([text for text in texts if text is not None])


def count_accepted(url):
    """Rows that the engine has, had or waits for."""
    names = ("unmask_rows_in_flight{", "unmask_queue{", "unmask_rows_finished_total{")
    text = httpx.get(f"{url}/metrics", timeout=60).text
    lines = [line for line in text.splitlines() if line.startswith(names)]
    return sum(float(line.split()[-1]) for line in lines)


async def first_steps(url, bodies, at_once):
    """Seconds from sending a request to its first canvas, for each."""
    gate = asyncio.Semaphore(at_once)
    async with open_client(url) as client:

        async def send(body):
            own = body | {"stream": True, "unmask": body.get("unmask", {}) | {"canvas": True}}
            async with gate:
                began, first = time.perf_counter(), None
                async with client.stream("POST", "/v1/completions", json=own) as response:
                    async for _ in read_events(response):
                        first = first or time.perf_counter() - began
                return first

        return await asyncio.gather(*(send(body) for body in bodies))


GENERATE = """
import json, sys, time, torch, unmask
torch.set_num_threads(1)
model_name, prompts, settings = json.load(sys.stdin)
model = unmask.load_model(model_name)
unmask.generate(model, prompts[:64], "threshold:0.9", **settings)
began, used = time.perf_counter(), time.process_time()
texts = unmask.generate(model, prompts, "threshold:0.9", **settings).text
print(json.dumps([time.perf_counter() - began, time.process_time() - used, texts]))
"""


def used_seconds(process):
    """CPU time that a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def compare_throughput(url, process, name, prompts, settings, at_once, repeats):
    """Seconds and CPU seconds of `generate` in a process of its own, and of the server, on the same
    prompts and one after the other, `repeats` times."""
    bodies = [
        ("/v1/completions", {"model": name, "prompt": prompt, **settings}) for prompt in prompts
    ]
    own = {"max_new_tokens": settings["max_tokens"]}
    asyncio.run(send_all(url, bodies[:64], 64))
    rounds = []
    for _ in range(repeats):
        given = json.dumps([name, prompts, own])
        result = subprocess.run(
            [sys.executable, "-c", GENERATE], input=given, capture_output=True, text=True
        )
        *alone, wanted = json.loads(result.stdout)
        began, used = time.perf_counter(), used_seconds(process)
        texts = asyncio.run(send_all(url, bodies, at_once))
        served = [time.perf_counter() - began, used_seconds(process) - used]
        rounds.append((*alone, *served))
        assert [text for (text,) in texts] == wanted
    return rounds


def fuzz(url, count):
    """Schemathesis over the server's OpenAPI; what it says at the end."""
    words = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{url}/openapi.json",
        "--max-examples",
        str(count),
        "--checks",
        "not_a_server_error",
        "--phases",
        "fuzzing",
        "--request-timeout",
        "60",
    ]
    with tempfile.TemporaryDirectory() as directory:
        result = subprocess.run(words, capture_output=True, text=True, cwd=directory)
    return result.returncode, result.stdout


def report(name, value):
    print(f"{name:<52} {value}", flush=True)


def show_shares(shares):
    """Median and ends of some numbers."""
    return f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})"


def run_throughput(url, process, count, at_once, repeats):
    """Throughput against `generate`, for a small and a larger model."""
    import unmask

    for name, number, length in ((MODEL, count, 48), ("embedded/word-problems", count // 5, 128)):
        task = name.partition("/")[2]
        prompts = [e.prompt for e in unmask.load_task(task).examples("test", number)]
        settings = {"max_tokens": length}
        rounds = compare_throughput(url, process, name, prompts, settings, at_once, repeats)
        report(
            f"{name}: {number} prompts, {at_once} at a time, s",
            ", ".join(f"generate {r[0]:.1f} / served {r[2]:.1f}" for r in rounds),
        )
        report("  throughput, share of generate", show_shares([r[0] / r[2] for r in rounds]))
        report("  CPU time, share of generate", show_shares([r[1] / r[3] for r in rounds]))
        bodies = [{"model": name, "prompt": p, "max_tokens": length} for p in prompts[:256]]
        seconds = sorted(asyncio.run(first_steps(url, bodies, 64)))
        report(
            "  first step, 64 at a time, s",
            f"median {statistics.median(seconds):.3f}, p95 {seconds[int(len(seconds) * 0.95)]:.3f}",
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--leaving", type=int, default=200)
    parser.add_argument("--fuzz", type=int, default=1000, help="cases for each operation; 0: none")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=1000, help="of a throughput; 0: none")
    parser.add_argument("--at-once", type=int, default=128, help="requests, for the throughput")
    given = parser.parse_args()

    import unmask
    from tests.serving.conftest import save_policy
    from tests.serving.server import start_server

    report("machine", f"{platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as directory:
        policies = {
            "single": str(save_policy(Path(directory) / "single")),
            "range": str(save_policy(Path(directory) / "range", conditioned=True)),
        }
        words = ["--model", MODEL, "--model", "embedded/word-problems", "--policy", "threshold:0.9"]
        words += [w for name, path in policies.items() for w in ("--policy", f"{name}={path}")]
        with start_server(*words) as (url, process):
            if given.prompts:
                run_throughput(url, process, given.prompts, given.at_once, given.repeats)
            began = time.perf_counter()
            rows = compare_answers(url, unmask.load_model(MODEL), policies, given.requests, 64)
            took = time.perf_counter() - began
            report(
                "equal to generate alone", f"{given.requests} requests, {rows} rows, {took:.0f} s"
            )
            before = resident_bytes(process)
            for n in range(2):
                left = asyncio.run(leave_at_random(url, given.leaving, 64, seed=n))
                wait_until_empty(url)
                after = resident_bytes(process)
                report(
                    f"clients that left, round {n + 1}",
                    f"{left} of {given.leaving}; memory {before / 2**20:.0f} → "
                    f"{after / 2**20:.0f} MiB; no row left",
                )
                before = after
            if given.fuzz:
                code, said = fuzz(url, given.fuzz)
                report("schemathesis", f"exit {code}")
                print("\n".join(said.splitlines()[-25:]), flush=True)
            answered = asyncio.run(stop_under_load(url, process, 64))
            report("SIGTERM under load", f"{answered} of 64 answered, exit {process.returncode}")


if __name__ == "__main__":
    main()
