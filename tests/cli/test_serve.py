"""`unmask serve` and `unmask playground` as commands."""

import socket

import httpx
import pytest

from tests.serving.server import start_server
from unmask.cli import main
from unmask.serving.catalog import split_name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "70000"], "port is 70000"),
        (["--host", "no.such.host.invalid"], "cannot be listened on"),
        (["--api-key", " "], "API key"),
        (["--max-queue", "0"], "max_queue is 0"),
        (["--port", "0", "--policy", "speed:3"], "speed:3"),
        (["--port", "0", "--policy", "threshold", "--policy", "threshold"], "given twice"),
        (["--port", "0", "--model", "embedded/none"], "embedded/none"),
        (["--port", "0", "--batch-size", "0"], "batch_size is 0"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(capsys, words, said):
    assert main(["serve", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_port_that_is_taken_is_refused_before_anything_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port), "--model", "no/such/model"]) == 2
    assert f"127.0.0.1:{port} cannot be listened on" in capsys.readouterr().err


def test_names_stand_before_specs():
    assert split_name("fast=threshold:0.5") == ("fast", "threshold:0.5")
    spec = "threshold:0.9@block_length=16"
    assert split_name(spec) == (spec, spec)
    assert split_name("runs/a@alpha=1") == ("runs/a@alpha=1", "runs/a@alpha=1")


def test_the_playground_serves_all_embedded_models_and_the_key_stays_out_of_sight():
    import unmask

    # A browser that runs in the terminal until it is closed, as w3m does: nobody waits for it.
    waiting = 'sh -c "exec sleep 20 >/dev/null 2>&1" %s'
    variables = {"UNMASK_API_KEY": "secret-key", "BROWSER": waiting}
    with start_server(command="playground", environment=variables) as (url, process):
        assert httpx.get(f"{url}/v1/models").status_code == 401
        headers = {"Authorization": "Bearer secret-key"}
        models = httpx.get(f"{url}/v1/models", headers=headers).json()["data"]
        assert [model["id"] for model in models] == unmask.embedded_models()
        for model in models:
            offered = {policy["name"] for policy in model["unmask"]["policies"]}
            assert {model["id"]} & set(unmask.embedded_policies()) <= offered
        for model in ("embedded/chain", "embedded/chain-dream"):
            query = f"{url}/playground/examples?model={model}"
            prompt = httpx.get(query, headers=headers, timeout=60).json()["examples"][0]
            body = {"model": model, "prompt": prompt}
            answer = httpx.post(f"{url}/v1/completions", json=body, headers=headers, timeout=60)
            asked = body | {"text": answer.json()["choices"][0]["text"]}
            verdict = httpx.post(f"{url}/playground/verdict", json=asked, headers=headers)
            assert verdict.json()["correct"] in (True, False)
            nonsense = body | {"text": "none"}
            verdict = httpx.post(f"{url}/playground/verdict", json=nonsense, headers=headers)
            assert verdict.json()["correct"] is False
        process.terminate()
        said, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "secret-key" not in said + errors and errors == ""
