"""The engine's invariants on the device, and that the host waits once in a step."""

import random

import pytest
import torch

import unmask
from tests.gpu.waits import Waits, sync_errors
from tests.models.checkpoints import write
from unmask.decoding import DecodeOptions, Engine, Request
from unmask.policies import LearnedPolicy, NetworkConfig, PolicyNetwork, load_policy

pytestmark = pytest.mark.gpu

SPECS = ("random:2", "confidence:2", "threshold:0.9", "factor:0.8", "margin:2", "entropy:0.8")
KINDS = ("learned", "context", "conditioned", "hidden", "plackett-luce")


def make_policy(kind, model):
    """A heuristic or a learned policy with random weights, on the model's device."""
    if kind not in KINDS:
        return load_policy(kind)
    changes = {
        "context": {"context": True, "inputs": 3},
        "conditioned": {"conditioned": True},
        "hidden": {"hidden": model.hidden_size},
        "plackett-luce": {"joint": True},
    }.get(kind, {})
    torch.manual_seed(KINDS.index(kind))
    network = PolicyNetwork(NetworkConfig(width=16, heads=2, mlp=32, **changes))
    torch.nn.init.normal_(network.modulation.weight, std=0.3)
    torch.nn.init.normal_(network.head.weight, std=0.5)
    network = network.to(model.device).requires_grad_(False)
    action = "plackett-luce" if kind == "plackett-luce" else "bernoulli"
    return LearnedPolicy(network, action, alpha=2.0 if kind == "conditioned" else None)


def random_request(rng, policies):
    """A request with random options."""
    length = rng.randint(1, 12)
    options = {
        "max_new_tokens": length,
        "block_length": rng.choice([None, rng.randint(1, length)]),
        "temperature": rng.choice([0.0, 0.0, 0.7]),
        "top_p": rng.choice([1.0, 0.8]),
        "top_k": rng.choice([0, 5]),
        "eos": rng.choice(["free", "never", "last"]),
        "stop_at_eos": rng.random() < 0.3,
        "stop": rng.choice([(), (), (";",), ("# 1", "+5")]),
    }
    kind = rng.random()
    if kind < 0.2:
        options["cfg_scale"] = 0.8
    elif kind < 0.4:
        options |= {"cache": rng.choice(["prefix", "dual"]), "cache_refresh": rng.choice([None, 2])}
    prompt = tuple(rng.randrange(4, 30) for _ in range(rng.choice([1, 3, 9, 20, 33])))
    return Request(prompt, rng.choice(policies), DecodeOptions(**options), rng.getrandbits(62))


def result_alone(model, request):
    """What a request gives with nothing beside it."""
    engine = Engine(model, 1)
    engine.submit(request)
    while (step := engine.step()) is not None:
        if step.results:
            return step.results[0]
    raise AssertionError("the row never finished")


def check_step(engine, requests, seen):
    """One step: prompts stay, revealed tokens stay, only masks are revealed. Its results."""
    step = engine.step()
    mask = engine.model.mask_id
    for slot, request in engine.canvas.requests.items():
        holes = set(request.buffer)
        row = engine.canvas.tokens[slot].tolist()
        given = [i for i in range(len(request.prompt)) if i not in holes]
        assert [row[i] for i in given] == [request.prompt[i] for i in given]
    rows = zip(step.rows.tolist(), step.tokens.tolist(), step.fresh.tolist(), strict=True)
    for ticket, tokens, fresh in rows:
        length = requests[ticket].length
        before = seen.get(ticket, [mask] * length)
        for old, new, revealed in zip(before, tokens[:length], fresh[:length], strict=True):
            assert (old == mask and new != mask) if revealed else old == new
        seen[ticket] = tokens[:length]
    return step.results


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_different_options_are_what_they_are_alone(device_model, device, seed):
    rng = random.Random(seed)
    policies = [make_policy(kind, device_model) for kind in (*SPECS, *KINDS)]
    requests = [random_request(rng, policies) for _ in range(16)]
    requests += [rng.choice(requests) for _ in range(4)]  # equal rows, as in GRPO's groups
    engine, seen, found = Engine(device_model, 6), {}, {}
    assert [engine.submit(request) for request in requests] == list(range(20))
    while not engine.idle:
        found |= {r.ticket: r for r in check_step(engine, requests, seen)}
    assert set(found) == set(range(20))
    other = 0
    for ticket, result in found.items():
        request = requests[ticket]
        assert 1 <= result.nfe <= request.length
        alone = result_alone(device_model, request)
        same = torch.equal(alone.tokens, result.tokens) and alone.nfe == result.nfe
        other += not (same and torch.equal(alone.reveal_step, result.reveal_step))
    # On GPUs the last bits of a row depend on its batch, so two nearly equal confidences may change
    # places; on CPUs nothing may.
    assert other <= (0 if device == "cpu" else 1)


def test_infilling_leaves_the_text_around_the_holes(device_model):
    m = device_model.mask_id
    prompt = (5, m, 6, m, m, 7)
    request = Request(prompt, load_policy("confidence:1"), DecodeOptions(), holes=(1, 3, 4))
    engine = Engine(device_model, 1)
    engine.submit(request)
    seen = {}
    while not engine.idle:
        check_step(engine, [request], seen)
    assert m not in seen[0]


def test_the_same_seed_gives_the_same_tokens_again(device_model):
    options = {"max_new_tokens": 12, "temperature": 1.0, "seed": 3}
    runs = [
        unmask.generate(device_model, [[5, 6], [7, 8, 9]] * 3, "random:2", **options)
        for _ in range(2)
    ]
    assert torch.equal(runs[0].tokens, runs[1].tokens)
    assert torch.equal(runs[0].reveal_step, runs[1].reveal_step)


def watch_look(engine, device, waits):
    """Allows the host to wait where the engine looks at the step's outcome; counts what it reads
    there. Returns the list of these counts."""
    look, reads = engine._look, []

    def watched(*arguments):
        before = len(waits.found)
        with sync_errors(device, "default"):
            outcome = look(*arguments)
        reads.append(waits.found[before:])
        del waits.found[before:]
        return outcome

    engine._look = watched
    return reads


def count_waits(model, device, request, *, admission):
    """Waits of three steps outside `_look`, and the reads inside it, of each step.

    With `admission` the step that lets new rows in counts too.
    """
    warm, engine, waits = Engine(model, 4), Engine(model, 4), Waits()
    for i in range(4):  # libraries make their handles and workspaces at the first use
        warm.submit(request(i))
        engine.submit(request(i))
    while not warm.idle:
        warm.step()
    if not admission:
        engine.step()
    reads = watch_look(engine, device, waits)
    for _ in range(3):
        if not engine.idle:
            with waits, sync_errors(device, "error"):
                engine.step()
    return waits.found, reads


OPTIONS = {
    "full": {},
    "blocks": {"block_length": 4},
    "draws": {"temperature": 0.8, "top_p": 0.9, "top_k": 7},
    "guided": {"cfg_scale": 0.5},
    "prefix": {"block_length": 4, "cache": "prefix"},
    "dual": {"block_length": 4, "cache": "dual", "cache_refresh": 2},
    "ends last": {"eos": "last"},
    "stops": {"stop": ("# 1",)},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", [*SPECS, *KINDS])
def test_the_host_waits_once_in_a_step(device_model, device, kind, name):
    policy = make_policy(kind, device_model)
    options = DecodeOptions(max_new_tokens=12, stop_at_eos=True, **OPTIONS[name])

    def request(i):
        return Request((5, 6, 7 + i % 2), policy, options, i)

    found, reads = count_waits(device_model, device, request, admission=False)
    assert found == [] and reads
    assert all(names == ["tolist"] for names in reads)


def test_the_host_waits_once_too_when_rows_come(device_model, device):
    policies = [
        make_policy(kind, device_model) for kind in ("learned", "threshold:0.4", "margin:1")
    ]

    def request(i):
        options = DecodeOptions(max_new_tokens=9 + i, stop_at_eos=i > 1)
        return Request((5, 6, 7 + i), policies[i % 3], options, i)

    found, reads = count_waits(device_model, device, request, admission=True)
    assert found == []
    assert all(names == ["tolist"] for names in reads)


@pytest.mark.parametrize(
    "family", ["llada", "dream", "a2d-qwen2", "a2d-qwen3", "a2d-llama", "sdar"]
)
def test_the_host_waits_once_with_every_dense_family(family, device, tmp_path):
    directory = write(family, tmp_path / "model").directory
    model = unmask.load_model(directory, device=device, dtype=torch.bfloat16)
    policy = load_policy("confidence:1")

    def request(i):
        return Request((7, 8, 9 + i), policy, DecodeOptions(max_new_tokens=8), i)

    found, reads = count_waits(model, device, request, admission=False)
    assert found == [] and all(names == ["tolist"] for names in reads)


def test_the_host_waits_once_with_experts(device, tmp_path):
    """In bf16 on cards from Hopper on; elsewhere torch's grouped product reads how many tokens each
    expert has, in every layer."""
    if device == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("the grouped product of experts waits on cards before Hopper")
    directory = write("llada_moe", tmp_path / "model", expert_intermediate_size=16).directory
    model = unmask.load_model(directory, device=device, dtype=torch.bfloat16)
    policy = load_policy("confidence:1")

    def request(i):
        return Request((7, 8, 9 + i), policy, DecodeOptions(max_new_tokens=8), i)

    found, reads = count_waits(model, device, request, admission=False)
    assert found == [] and all(names == ["tolist"] for names in reads)
