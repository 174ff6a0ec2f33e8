"""Every argument of the public calls, wrong in type, shape or range, gives an `UnmaskError`.

In a fork without them: the type checks of the other tests would be first to complain."""

import json

from tests.forks import run_code

SCRIPT = """
import json, sys, types
import torch
import unmask
from unmask.decoding import DecodeOptions, Engine, Recorder, Request, decode
from unmask.policies import Needs, Observation, load_policy

model = unmask.load_model(sys.argv[1], dtype="float32")
good = {"prompts": [[5, 6], [7, 8]], "policy": load_policy("confidence:1"), "max_new_tokens": 4}


def call(function, change):
    arguments = good | change
    return function(model, arguments.pop("prompts"), arguments.pop("policy"), **arguments)


def greedy(**needs):
    return types.SimpleNamespace(needs=needs.get("needs", Needs()), act=lambda o, g: o.eligible)


options = {
    "max_new_tokens": [0, -1, 4.0, "4", True, None, 2.5],
    "block_length": [0, 5, 2.0, "2"],
    "temperature": [-1.0, float("nan"), float("inf"), "hot", None, 1e-38, 1e39, True, 10**400],
    "top_p": [0.0, 1.5, -1.0, float("nan"), "all"],
    "top_k": [-1, 2.5, "3"],
    "cfg_scale": [-1.0, float("nan"), "much", 10**400],
    "eos": ["half", None, 3],
    "stop_at_eos": ["yes", 1, None],
    "stop": ["#", ("",), (3,), 5, None],
    "max_passes": [0, -1, 1.5],
    "cache": ["half", 1],
    "cache_refresh": [0, 2],
    "seed": [-1, 1.5, "x", 2**64],
    "batch_size": [0, -3, 2.0, "8", None],
    "no_such_option": [1],
}
cases = [(name, value, {name: value}) for name, values in options.items() for value in values]
prompts = ([], [[999]], [[-1]], None, [5])
cases += [("prompts", value, {"prompts": value}) for value in prompts]
both = [(unmask.generate, case) for case in cases] + [(decode, case) for case in cases]
policies = [None, 3, "nonsense", "threshold:2", "confidence:0", object(), dict,
            greedy(needs=frozenset()), greedy(needs=Needs(frozenset({"logits"}))),
            greedy(needs=Needs(top_k=0)), greedy(needs=Needs(top_k=10**6))]
both += [(unmask.generate, ("policy", value, {"policy": value})) for value in policies]
texts = ["7 a", 3, [3], [None], [1.5], [{"role": "user"}], [[{"role": "user"}]], ["hello"],
         ["7 a <mask> ="], ["\\ud800"]]
both += [(unmask.generate, ("prompts", value, {"prompts": value})) for value in texts]
rows = {
    "keys": [[1], [1, 2, 3], ["a", "b"], [1.5, 2.5], [2**64, 1]],
    "alpha": [1.0, torch.tensor(1.0), [1.0], [0.0, 1.0], [float("nan"), 1.0], ["a", "b"],
              torch.ones(2, 2)],
    "holes": [[5, 5], [["a"], [0]], [[0]], [[0], [0, 0]], [[1, 0], [0]], [[2], [0]], [[], [0]]],
}
both += [(decode, (name, v, {name: v})) for name, values in rows.items() for v in values]
found = []
for name in ("infill", "record"):
    both.append((unmask.generate, (name, "no", {name: "no"})))
for function, (name, value, change) in both:
    try:
        call(function, change)
        found.append([function.__name__, name, repr(value)[:60], "accepted", ""])
    except Exception as error:
        found.append([function.__name__, name, repr(value)[:60], type(error).__name__, str(error)])
for function in (lambda: unmask.generate(None, ["7 a"], "confidence:1", max_new_tokens=4),
                 lambda: decode(None, [[5]], load_policy("confidence:1"), max_new_tokens=4),
                 lambda: Engine(5),
                 lambda: Engine(model, slots=0),
                 lambda: Request(5, load_policy("confidence:1"), DecodeOptions(max_new_tokens=4)),
                 lambda: Request((5,), load_policy("confidence:1"), DecodeOptions(), holes=5),
                 lambda: DecodeOptions(stop=5),
                 lambda: unmask.generate(model, ["7 a"], "confidence:1", max_new_tokens=4,
                                         eos="last", logits_eos_inf=True)):
    try:
        function()
        found.append(["call", "", "", "accepted", ""])
    except Exception as error:
        found.append(["call", "", "", type(error).__name__, str(error)])
engine = Engine(model)
for value in (None, 3, [5, 6]):
    try:
        engine.submit(value)
        found.append(["submit", "request", repr(value), "accepted", ""])
    except Exception as error:
        found.append(["submit", "request", repr(value), type(error).__name__, str(error)])
print(json.dumps(found))
"""


def test_every_wrong_argument_is_refused_by_a_sentence(tiny_dir):
    done = run_code(SCRIPT, str(tiny_dir))
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found) > 120
    wrong = [case for case in found if case[3] != "UnmaskError" or "\n" in case[4]]
    assert not wrong, "\n".join(map(str, wrong))
