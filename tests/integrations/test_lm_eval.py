"""The adapter for lm-evaluation-harness, end to end on task files of our own."""

import dataclasses
import json
import math
import random
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.tasks import _index

from tests.decoding.test_trained_blocks import trained
from tests.forks import run_two, start_fork, wait_for
from unmask import UnmaskError, evaluate, load_model, load_task
from unmask.cli import main
from unmask.decoding import DecodeOptions, decode, encode_prompt
from unmask.integrations.lm_eval import CodeEval, UnmaskLM, job_of, sandboxed_code_eval
from unmask.integrations.lm_eval.likelihoods import cut_text, decodes_as
from unmask.sandbox import check
from unmask.scoring import Text, encode_pair, exact_likelihood

TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: generate_until
test_split: test
fewshot_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: " "
fewshot_delimiter: " "
generation_kwargs:
  until: ["never"]
{more}
filter_list:
  - name: last
    filter:
      - function: regex
        regex_pattern: "# (\\\\d)"
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture(scope="module")
def chain():
    """Test prompts of chain."""
    return load_task("chain").examples("test", 6)


def see_own_files(monkeypatch, choose):
    """Which of the harness's own task files it sees: those that `choose` gives, of the function
    that lists the files below a directory, and of the directory of them all."""
    files, home = _index.TaskIndex._iter_yaml_files, Path(_index.__file__).parent

    def own(root):
        return choose(files, home) if root == home else files(root)

    monkeypatch.setattr(_index.TaskIndex, "_iter_yaml_files", staticmethod(own))


@pytest.fixture
def few_files(tmp_path, monkeypatch):
    """An empty directory as home of the harness: of its 14,000 task files, all of which it reads at
    each start, it sees none, and its caches are of this test."""
    see_own_files(monkeypatch, lambda files, home: iter(()))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("lm_eval.caching.cache.PATH", str(tmp_path / "requests"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tasks(chain, few_files, tmp_path):
    """A directory with the task files chain_local (L of the model) and chain_short (L = 24)."""
    rows = [
        json.dumps({"question": example.prompt, "answer": example.answer.rsplit("# ")[1]}) + "\n"
        for example in chain
    ]
    (tmp_path / "test.jsonl").write_text("".join(rows))
    directory = tmp_path / "tasks"
    directory.mkdir()
    for name, more in (("chain_local", ""), ("chain_short", "  max_gen_toks: 24")):
        (directory / f"{name}.yaml").write_text(
            TASK.format(name=name, data=tmp_path / "test.jsonl", more=more)
        )
    return directory


def read_json(*parts):
    """A file's contents."""
    return json.loads(Path(*parts).read_text(encoding="utf-8"))


def read_lines(*parts):
    """The contents of a file with a JSON value on each line."""
    return [json.loads(line) for line in Path(*parts).read_text(encoding="utf-8").splitlines()]


def context(sample):
    """The prompt that a sample was answered for."""
    return sample["arguments"][0][0]


def lm_eval(*arguments):
    return main(["lm-eval", *map(str, arguments)])


def test_the_command_agrees_with_unmask_evaluate(tasks, tmp_path, capsys):
    options = (
        "--include-path",
        tasks,
        "--policy",
        "threshold:0.7",
        "--block-length",
        16,
        "--batch-size",
        5,
    )
    assert lm_eval("--tasks", "chain_local,chain_short", *options, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    report = read_json(tmp_path, "out", "results.json")
    model, task = load_model("embedded/chain"), load_task("chain")
    for name, length in (("chain_local", 48), ("chain_short", 24)):
        (expected,) = evaluate(
            model, task, ["threshold:0.7"], block_lengths=[16], prompts=6, max_new_tokens=length
        )
        assert report["results"][name]["exact_match,last"] == pytest.approx(expected.accuracy)
        cost = report["costs"][name]
        assert (cost["prompts"], cost["nfe"]) == (6, pytest.approx(expected.nfe))
        assert (
            cost["tokens_per_forward"] == pytest.approx(expected.tokens_per_forward)
            and cost["seconds"] > 0
        )
        assert f"{name}: {expected.nfe:.1f} NFE" in printed
        assert len(read_lines(tmp_path, "out", f"samples-{name}.jsonl")) == 6
    assert report["results"]["chain_local"]["exact_match,last"] > 0.5
    assert report["config"]["unmask_policy"] == "threshold:0.7" and "commit" in report["provenance"]


def test_limit_fewshot_and_chat_template(tasks, tmp_path):
    options = ("--include-path", tasks, "--tasks", "chain_local", "--policy", "confidence:8")
    options = (*options, "--limit", 3, "--num-fewshot", 2, "--fewshot-as-multiturn")
    assert lm_eval(*options, "--apply-chat-template", "--out", tmp_path / "chat") == 0
    samples = read_lines(tmp_path, "chat", "samples-chain_local.jsonl")
    assert len(samples) == 3
    for sample in samples:  # the embedded model's template writes a space behind each message
        assert context(sample).endswith(f" {sample['doc']['question']} ")
        assert context(sample).count("=") == 3
    report = read_json(tmp_path, "chat", "results.json")
    assert report["costs"]["chain_local"]["nfe"] == 6
    assert "message.content" in report["chat_template"]


def test_the_harness_own_command_has_the_model(tasks, tmp_path, monkeypatch):
    from lm_eval.__main__ import cli_evaluate

    monkeypatch.setattr("tests.forks.main", lambda words: cli_evaluate() or 0)
    model = "model=embedded/chain,policy=confidence:4,block_length=16"
    command = ("run", "--model", "unmask", "--model_args", model, "--tasks", "chain_local")
    options = ("--include_path", tasks, "--limit", 2, "--output_path", tmp_path / "own")
    child = start_fork(tmp_path / "log", *command, *options)
    assert wait_for([child]) == [0], (tmp_path / "log").read_text(encoding="utf-8")
    (file,) = (tmp_path / "own").rglob("results_*.json")
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["config"]["costs"]["chain_local"]["nfe"] == 12
    assert "exact_match,last" in report["results"]["chain_local"]


def test_two_processes_answer_as_one(tasks, tmp_path):
    """Also where one of them has all its answers in its cache already, as after an interrupt."""
    options = ("--include-path", tasks, "--tasks", "chain_local", "--policy", "confidence:8")
    options = (*options, "--limit", 4, "--use-cache", tmp_path / "answers")

    def answer(out):
        """What a group of two processes writes."""
        run_two(tmp_path / f"log-{out}", "lm-eval", *options, "--out", tmp_path / out)
        return read_json(tmp_path, out, "results.json")

    two = answer("two")
    (cache,) = tmp_path.glob("answers-*_rank1.db")
    cache.unlink()
    resumed = answer("resumed")
    assert lm_eval(*options[:-2], "--out", tmp_path / "one") == 0
    one = read_json(tmp_path, "one", "results.json")
    processes = [report["provenance"]["processes"] for report in (one, two, resumed)]
    assert processes == [1, 2, 2]
    for report in (two, resumed):
        assert report["results"]["chain_local"]["exact_match,last"] == pytest.approx(
            one["results"]["chain_local"]["exact_match,last"]
        )
    costs = [report["costs"]["chain_local"] for report in (one, two, resumed)]
    assert [cost["prompts"] for cost in costs] == [4, 4, 2]
    texts = [
        sorted(str(row["resps"]) for row in read_lines(tmp_path, n, "samples-chain_local.jsonl"))
        for n in ("one", "two", "resumed")
    ]
    assert texts[0] == texts[1] == texts[2]


def requests(*pairs):
    return [Instance("generate_until", {}, pair, i, ("task", i, 1)) for i, pair in enumerate(pairs)]


def test_until_may_be_a_special_token_or_nothing(chain, monkeypatch):
    """Stop strings are looked for before special tokens are dropped."""
    lm = UnmaskLM("embedded/chain", "confidence:8", max_new_tokens=8)
    tokenizer = lm.model.tokenizer
    row = tokenizer("7 a <pad> 3 b +5", add_special_tokens=False)["input_ids"]
    found = decode(lm.model, [[5, 6]], lm.policy, max_new_tokens=8)
    buffer = torch.tensor([row + [lm.model.eos_ids[0]] * (8 - len(row))])
    fixed = dataclasses.replace(found, tokens=buffer)
    monkeypatch.setattr("unmask.integrations.lm_eval.model.decode", lambda *_, **__: fixed)
    for until, text in ((["<pad>"], "7 a"), (["3"], "7 a"), (None, "7 a 3 b +5"), ("b", "7 a 3")):
        (answer,) = lm.generate_until(requests((chain[0].prompt, {"until": until})))
        assert answer.strip() == text, until


def test_until_lengths_and_order(chain):
    lm = UnmaskLM("embedded/chain", "confidence:2", batch_size=2)
    prompts = [example.prompt for example in chain[:5]]
    plain = lm.generate_until(requests(*((prompt, {"until": []}) for prompt in prompts)))
    assert plain == [lm.generate_until(requests((prompt, {"until": []})))[0] for prompt in prompts]
    cut = lm.generate_until(requests(*((prompt, {"until": ["#", "="]}) for prompt in prompts)))
    assert cut == [text.split("#")[0].split("=")[0] for text in plain] and cut != plain
    lm.costs.clear()
    lm.generate_until(requests((prompts[0], {"until": ["#", "="]})))
    words = lm.model.tokenizer(cut[0], add_special_tokens=False)["input_ids"]
    assert lm.costs["task"].tokens == len(words), "what is cut off is no answer"
    lm.costs.clear()
    lm.generate_until(
        requests((prompts[0], {"max_gen_toks": 10}), (prompts[1], {"max_new_tokens": 20}))
    )
    assert (lm.costs["task"].nfe, lm.costs["task"].prompts) == (5 + 10, 2)
    fixed = UnmaskLM("embedded/chain", "confidence:2", max_new_tokens=30)
    fixed.generate_until(requests((prompts[0], {"max_gen_toks": 10})))
    assert fixed.costs["task"].nfe == 15


def test_sampled_answers_to_the_same_prompt_differ(chain):
    lm = UnmaskLM("embedded/chain", "confidence:1")
    options = {"do_sample": True, "temperature": 3.0}
    texts = lm.generate_until(requests(*[(chain[0].prompt, options)] * 8))
    assert len(set(texts)) > 4 and texts == lm.generate_until(
        requests(*[(chain[0].prompt, options)] * 8)
    )
    assert (
        len(
            set(
                lm.generate_until(
                    requests(*[(chain[0].prompt, options | {"do_sample": False})] * 4)
                )
            )
        )
        == 1
    )


def test_options_hold_for_every_task_and_the_rest_is_the_tasks(chain):
    own = UnmaskLM("embedded/chain", "confidence:2", block_length=16, temperature=0.5, top_p=0.9)
    wishes = {"max_gen_toks": 12, "temperature": 0.0, "top_p": 0.5, "top_k": 7, "until": []}
    chosen = own.options_for(wishes)
    assert (chosen.max_new_tokens, chosen.block_length) == (12, 12)
    assert (chosen.temperature, chosen.top_p, chosen.top_k) == (0.5, 0.9, 7)
    plain = UnmaskLM("embedded/chain", "confidence:2", DecodeOptions(stop_at_eos=True))
    assert plain.options_for(wishes) == DecodeOptions(12, 12, stop_at_eos=True)
    sampled = plain.options_for(wishes | {"temperature": 0.7, "top_k": -1})
    assert (sampled.temperature, sampled.top_p, sampled.top_k) == (0.7, 0.5, 0)
    sampling = wishes | {"temperature": 0.7}
    greedy = UnmaskLM("embedded/chain", "confidence:2", temperature=0.0, top_p=1.0)
    assert greedy.options_for(sampling) == DecodeOptions(12, 12)
    greedy = UnmaskLM("embedded/chain", "confidence:2", DecodeOptions(), given=["temperature"])
    assert greedy.options_for(sampling).temperature == 0
    chosen = UnmaskLM("embedded/chain", "confidence:2", choices=("# 7", "a then 3"))
    assert chosen.options_for(wishes | {"max_gen_toks": 48}).max_new_tokens == 3
    ids = [encode_prompt(plain.model, example.prompt) for example in chain]
    expected = decode(
        plain.model, ids, plain.policy, DecodeOptions(48, 8, stop_at_eos=True), batch_size=8
    )
    plain = UnmaskLM("embedded/chain", "confidence:2", block_length=8, stop_at_eos=True)
    plain.generate_until(requests(*((example.prompt, {}) for example in chain)))
    assert plain.costs["task"].nfe == int(expected.nfe.sum()) < 24 * len(chain)


def test_the_evaluate_library_is_as_before_afterwards(monkeypatch):
    import evaluate as library

    def original(*args, **options):
        return args, options

    monkeypatch.setattr(library, "load", original)
    with sandboxed_code_eval(True):
        assert isinstance(library.load("code_eval"), CodeEval)
        assert library.load("rouge", x=1) == (("rouge",), {"x": 1})
    assert library.load is original
    with pytest.raises(UnmaskError, match="allow-code-execution"), sandboxed_code_eval(False):
        library.load("code_eval")
    assert library.load is original


def test_an_error_of_the_harness_is_not_hidden(tmp_path, monkeypatch):
    """Also where files lie in the new directory already, so that it cannot be removed."""
    from lm_eval import evaluator

    import unmask.cli.lm_eval

    index = SimpleNamespace(match_tasks=lambda names: names)
    monkeypatch.setattr(unmask.cli.lm_eval, "load_tasks", lambda *names: index)

    def fails(*args, **options):
        (tmp_path / "new" / "out" / "log.txt").write_text("begun", encoding="utf-8")
        raise KeyError("the real error")

    monkeypatch.setattr(evaluator, "simple_evaluate", fails)
    options = ("--tasks", "chain_local", "--out", tmp_path / "new" / "out")
    with pytest.raises(KeyError, match="the real error"):
        lm_eval(*options)
    (tmp_path / "new" / "out" / "log.txt").unlink()
    (tmp_path / "new" / "out").rmdir()
    (tmp_path / "new").rmdir()
    assert lm_eval(*options, "--policy", "nonsense") == 2
    assert not (tmp_path / "new").exists()


def test_numbers_that_json_has_not_are_null(tmp_path):
    from unmask.cli.lm_eval import valid_json

    found = valid_json({"a": float("nan"), "b": [1.0, float("inf")], "c": tmp_path})
    assert found == {"a": None, "b": [1.0, None], "c": str(tmp_path)}


def test_code_eval_runs_in_the_sandbox(tmp_path):
    test = "def check(candidate):\n    assert candidate(2, 3) == 5\n\ncheck(add)"
    right, wrong = "def add(a, b):\n    return a + b\n", "def add(a, b):\n    return a * b\n"
    rates, passed = CodeEval().compute(
        [test, "assert add(1, 1) == 2"], [[right, wrong], [wrong, wrong]], k=[1, 2]
    )
    assert rates == {"pass@1": 0.25, "pass@2": 0.5} and passed == {
        0: [True, False],
        1: [False, False],
    }
    forged = [
        "def check(candidate): pass\ndef add(a, b): return 0",
        "import os\nos._exit(0)",
        "class Yes:\n    def __eq__(self, other): return True\ndef add(a, b): return Yes()",
        f"open({str(tmp_path / 'out')!r}, 'w').write('x')\n" + right,
        "def abs(x): return 0\ndef add(a, b): return 0",
    ]
    assert not any(check(job_of(program, test)).passed for program in forged)
    assert not (tmp_path / "out").exists()
    assert not check(
        job_of("def abs(x): return 0\ndef add(a, b): return 7", "assert abs(add(2, 3) - 5) < 1e-6")
    ).passed


CODE = """task: code_local
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
unsafe_code: true
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "assert f(1) == 2"
generation_kwargs:
  until: ["never"]
metric_list:
  - metric: !function utils.passes
    aggregation: mean
    higher_is_better: true
"""


def test_tasks_that_run_code_need_the_flag_and_get_the_sandbox(tasks, tmp_path, capsys):
    """As humaneval and mbpp do: a metric that loads `code_eval` of the `evaluate` library."""
    (tasks / "code_local.yaml").write_text(CODE.format(data=tmp_path / "test.jsonl"))
    escaped = tmp_path / "escaped"
    wrong = f"def f(x):\n    open({str(escaped)!r}, 'w').close()\n    return x + 1"
    (tasks / "utils.py").write_text(
        "import evaluate\n"
        "judge = evaluate.load('code_eval')\n"
        "right = 'def f(x): return x + 1'\n"
        f"wrong = {wrong!r}\n"
        "def passes(references, predictions):\n"
        "    program = right if len(predictions[0]) % 2 else wrong\n"
        "    return judge.compute(references=references, predictions=[[program]], "
        "k=[1])[0]['pass@1']\n"
    )
    options = ("--include-path", tasks, "--tasks", "code_local", "--policy", "confidence:16")
    assert lm_eval(*options, "--out", tmp_path / "no") == 2
    assert "--allow-code-execution" in capsys.readouterr().err
    assert lm_eval(*options, "--out", tmp_path / "yes", "--allow-code-execution") == 0
    samples = read_lines(tmp_path, "yes", "samples-code_local.jsonl")
    wanted = [float(len(sample["filtered_resps"][0]) % 2) for sample in samples]
    assert [sample["passes"] for sample in samples] == wanted and len(set(wanted)) == 2
    assert not escaped.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "no tasks"),
        (("--tasks", "gsm8k,no_such_task"), "has no task 'no_such_task'"),
        (("--tasks", "gsm8k", "--include-path", "nowhere"), "nowhere"),
        (("--tasks", "gsm8k", "--fewshot-as-multiturn"), "without --apply-chat-template"),
    ],
)
def test_bad_input_is_one_sentence(arguments, says, tmp_path, monkeypatch, capsys):
    """The harness sees gsm8k of its own tasks: it takes twenty seconds to read all the files."""
    see_own_files(monkeypatch, lambda files, home: files(home / "gsm8k"))
    monkeypatch.chdir(tmp_path)
    assert lm_eval(*arguments) == 2
    assert says in capsys.readouterr().err
    assert not Path("runs").exists()


def test_settings_that_cannot_be_used_are_refused():
    for settings in (
        {"policy": "nonsense"},
        {"batch_size": "auto"},
        {"batch_size": 0},
        {"block_length": 0},
        {"dtype": "int8"},
    ):
        with pytest.raises(UnmaskError, match=r"nonsense|batch_size|block_length|dtype"):
            UnmaskLM(**settings)
    for settings, says in (
        ({"likelihood": "best"}, "bound, left-to-right, policy"),
        ({"mc_samples": 7}, "even number"),
        ({"mc_samples": "many"}, "mc_samples"),
        ({"likelihood_canvas": 0}, "likelihood_canvas"),
        ({"likelihood_canvas": "wide"}, "likelihood_canvas"),
    ):
        with pytest.raises(UnmaskError, match=says):
            UnmaskLM(**settings)


def test_a_chat_template_that_raises_is_one_sentence():
    lm = UnmaskLM("embedded/chain", "confidence:8")
    lm.model.tokenizer.chat_template = "{{ raise_exception('no system here') }}"
    chat = [{"role": "system", "content": "7"}, {"role": "user", "content": "a"}]
    says = r"cannot write a chat of these messages: system, user \(no system here\); give"
    with pytest.raises(UnmaskError, match=says):
        lm.apply_chat_template(chat)


def test_a_share_of_the_prompts_options_of_the_generation_and_a_cache(tasks, tmp_path):
    cached = ("--include-path", tasks, "--tasks", "chain_short", "--limit", "0.5")
    cached = (*cached, "--gen-kwargs", "max_gen_toks=6", "--cache-requests")
    cached = (*cached, "--use-cache", tmp_path / "answers")

    def results(name, *options):
        assert lm_eval(*options, "--out", tmp_path / name) == 0
        samples = read_lines(tmp_path, name, "samples-chain_short.jsonl")
        return [sample["resps"] for sample in samples], read_json(tmp_path, name, "results.json")[
            "costs"
        ]

    answers, costs = results("first", *cached)
    assert len(answers) == 3 and costs["chain_short"]["prompts"] == 3
    assert costs["chain_short"]["nfe"] <= 6
    assert results("again", *cached) == (answers, {})  # nothing was decoded
    other, costs = results("other", *cached, "--policy", "random:6")
    assert costs["chain_short"]["nfe"] == 1 and other != answers


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "nan", "inf"])
def test_a_limit_is_a_share_or_a_whole_number(capsys, tmp_path, limit):
    assert lm_eval("--tasks", "gsm8k", f"--limit={limit}", "--out", tmp_path / "out") == 2
    assert "give a whole number of prompts, a share between 0 and 1" in capsys.readouterr().err


CHOICES = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def enumerate_bound(model, tokens, start):
    """LLaDA's bound by all masks of the tokens from `start` on, from the public logits."""
    places, total = range(start, len(tokens)), 0.0
    for count in range(1, len(places) + 1):
        subsets = list(combinations(places, count))
        for subset in subsets:
            values = log_probs(model, tokens, subset)
            mean = sum(values[p, tokens[p]].item() for p in subset) / count
            total += mean / len(subsets)
    return total


def enumerate_chain(model, tokens, start):
    """The chain rule from left to right."""
    places = range(start, len(tokens))
    return sum(log_probs(model, tokens, range(p, len(tokens)))[p, tokens[p]].item() for p in places)


def log_probs(model, tokens, masked):
    canvas = torch.tensor([[model.mask_id if i in masked else t for i, t in enumerate(tokens)]])
    logits = model.logits(canvas, torch.ones_like(canvas))[0].double()
    logits[:, list(model.never_ids)] = -torch.inf
    return logits.log_softmax(-1)


@pytest.mark.parametrize(
    ("kind", "enumerate_choice"), [("bound", enumerate_bound), ("left-to-right", enumerate_chain)]
)
def test_multiple_choice_is_as_accurate_as_enumeration(
    kind, enumerate_choice, tiny_dir, tmp_path, few_files
):
    model, rng = load_model(tiny_dir, dtype=torch.float32), random.Random(0)
    words = ["7", "3", "a", "b", "+5", "*3", "=", "#"]
    rows, chosen, expected = [], [], []
    for _ in range(12):
        question = " ".join(rng.choices(words, k=5))
        choices = [" ".join(rng.choices(words, k=rng.randint(1, 3))) for _ in range(4)]
        rows.append({"question": question, "choices": choices, "answer": rng.randrange(4)})
        start = len(encode_prompt(model, question))
        choices[0] += rng.choice(["", " zebra"])  # an unknown word, which no answer holds
        values = [
            -math.inf
            if "zebra" in choice
            else enumerate_choice(model, encode_prompt(model, f"{question} {choice}"), start)
            for choice in choices
        ]
        chosen.append(values.index(max(values)))
        expected.append(values)
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    text = CHOICES.format(name="pick", data=tmp_path / "test.jsonl")
    (tmp_path / "tasks" / "pick.yaml").write_text(text)
    options = ("--include-path", tmp_path / "tasks", "--tasks", "pick", "--model", tiny_dir)
    options = (*options, "--dtype", "float32", "--likelihood", kind)
    assert lm_eval(*options, "--out", tmp_path / "out") == 0
    report = read_json(tmp_path, "out", "results.json")
    right = [pick == row["answer"] for pick, row in zip(chosen, rows, strict=True)]
    assert report["results"]["pick"]["acc,none"] == sum(right) / 12
    samples = read_lines(tmp_path, "out", "samples-pick.jsonl")
    found = [  # JSON has no −∞
        [-math.inf if pair[0] is None else float(pair[0]) for pair in sample["filtered_resps"]]
        for sample in samples
    ]
    assert [values.index(max(values)) for values in found] == chosen
    for values, own in zip(found, expected, strict=True):
        assert values == pytest.approx(own, abs=1e-4)
    assert 0 < sum(right) < 12 and len(set(chosen)) > 1
    cost = report["costs"]["pick"]
    assert cost["prompts"] == 48 and cost["nfe"] > 1


def test_a_continuation_is_greedy_if_it_would_be_the_answer(tiny_dir, tmp_path, chain):
    """In the blocks that a policy was trained in, and with the draws of the seed."""
    trained(2).save_pretrained(tmp_path / "policy")
    for policy, seed in ((str(tmp_path / "policy"), 0), ("random:1", 3)):
        lm = UnmaskLM(str(tiny_dir), policy, dtype="float32", seed=seed)
        options = lm.options_for({"max_gen_toks": 8})
        texts, nfe = [], 0
        for example in chain:
            ids = encode_prompt(lm.model, example.prompt)
            found = decode(lm.model, [ids], lm.policy, options)
            places = tuple(range(len(ids), len(ids) + 8))
            texts.append(Text((*ids, *found.tokens[0].tolist()), places))
            nfe += int(found.nfe[0])
        assert decodes_as(lm, texts) == ([True] * len(chain), nfe)


def test_log_likelihoods_of_the_policy_and_of_whole_texts(tiny_dir):
    lm = UnmaskLM(str(tiny_dir), "confidence:1", dtype="float32", likelihood="policy", batch_size=3)
    (own,) = lm.generate_until(requests(("7 a +5 =", {"max_gen_toks": 4})))
    pairs = [("7 a +5 =", own), ("7 a +5 =", "7 7 7 7"), ("", "# 3")]
    asked = [Instance("loglikelihood", {}, pair, i, ("mc", i, 1)) for i, pair in enumerate(pairs)]
    found = lm.loglikelihood(asked)
    assert [greedy for _, greedy in found] == [True, False, False]
    assert found[0][0] > found[1][0]
    texts = [encode_pair(lm.model, *pair) for pair in pairs]
    expected = exact_likelihood(lm.model, texts, "confidence:1")
    assert [value for value, _ in found] == [each.log_likelihood for each in expected]
    assert lm.costs["mc"].prompts == 3

    whole = "7 a +5 b *3 = 2 c +1 = 3 # 3"
    one = Instance("loglikelihood_rolling", {}, (whole,), 0, ("ppl", 0, 1))
    (value,) = lm.loglikelihood_rolling([one])
    ids = tuple(encode_prompt(lm.model, whole))
    (expected,) = exact_likelihood(lm.model, [Text(ids, tuple(range(len(ids))))], "confidence:1")
    assert value == expected.log_likelihood
    assert lm.costs["ppl"].prompts == 1
    lm.model.network.config.max_position_embeddings = 6
    lm.loglikelihood_rolling([one, one])  # in several pieces each
    assert lm.costs["ppl"].prompts == 3


@pytest.mark.parametrize("kind", ["bound", "left-to-right", "policy"])
def test_a_token_that_is_never_proposed_has_no_likelihood(kind, tiny_dir):
    lm = UnmaskLM(str(tiny_dir), "confidence:1", dtype="float32", likelihood=kind, batch_size=2)
    pairs = [("7 a +5 =", "zebra"), ("7 a +5 =", "# 2"), ("7 a", "<mask> 7"), ("7 a", "+5")]
    asked = [Instance("loglikelihood", {}, pair, i, ("mc", i, 1)) for i, pair in enumerate(pairs)]
    found = lm.loglikelihood(asked)
    assert found[0] == found[2] == (-math.inf, False)
    assert [found[1], found[3]] == lm.loglikelihood([asked[1], asked[3]])
    assert lm.loglikelihood(asked[:1]) == found[:1]  # nothing is left to forward
    whole = [Instance("loglikelihood_rolling", {}, ("7 zebra",), 0, ("ppl", 0, 1))]
    assert lm.loglikelihood_rolling(whole) == [-math.inf]
    assert lm.report()["ppl"]["tokens_per_forward"] == 0
    with pytest.raises(UnmaskError, match="no tokens"):
        lm.loglikelihood([Instance("loglikelihood", {}, ("7 a", ""), 0, ("mc", 0, 1))])


@pytest.mark.parametrize(
    ("kind", "enumerate_choice"), [("bound", enumerate_bound), ("left-to-right", enumerate_chain)]
)
def test_likelihoods_on_a_canvas_are_those_of_enumeration(kind, enumerate_choice, tiny_dir):
    """The ends of text behind a continuation are scored too."""
    lm = UnmaskLM(str(tiny_dir), dtype="float32", likelihood=kind, likelihood_canvas=5)
    pairs = [("7 a +5 =", "# 2"), ("7 a +5 =", "7 3 b a 7"), ("", "3")]
    asked = [Instance("loglikelihood", {}, pair, i, ("mc", i, 1)) for i, pair in enumerate(pairs)]
    for (prompt, text), (value, _) in zip(pairs, lm.loglikelihood(asked), strict=True):
        before, own = (encode_prompt(lm.model, part) for part in (prompt, text))
        tokens = [*before, *own, *[lm.model.eos_ids[0]] * (5 - len(own))]
        expected = enumerate_choice(lm.model, tokens, len(before))
        assert value == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("spec", ["embedded/chain", "embedded/chain-blocks"])
def test_continuations_are_scored_on_a_canvas_as_unmask_score_does(spec, tmp_path):
    prompt, length = "7 a +5 b *3 =", 16 if spec == "embedded/chain" else 48
    settings = {"dtype": "float32", "mc_samples": 8, "likelihood_canvas": str(length)}
    lm = UnmaskLM(spec, "threshold:0.9", max_new_tokens=length, **settings)
    (own,) = lm.generate_until(requests((prompt, {"until": []})))
    pairs = [(prompt, own), (prompt, "a then 7")]
    asked = [Instance("loglikelihood", {}, pair, i, ("mc", i, 1)) for i, pair in enumerate(pairs)]
    found = lm.loglikelihood(asked)
    assert [greedy for _, greedy in found] == [True, False]
    options = ("--samples", 8, "--max-new-tokens", length, "--output", tmp_path / "out")
    words = ("score", "--model", spec, prompt, own, "a then 7", *options)
    assert main([str(word) for word in words]) == 0
    scored = [record["log_likelihood"] for record in read_lines(tmp_path, "out")]
    assert [value for value, _ in found] == pytest.approx(scored, abs=1e-4)
    alone = UnmaskLM(spec, "threshold:0.9", dtype="float32", mc_samples=8)
    assert alone.loglikelihood(asked)[0][0] != found[0][0]
    early = UnmaskLM(spec, "threshold:0.9", stop_at_eos=True, **settings)
    assert [greedy for _, greedy in early.loglikelihood(asked)] == [True, False]
    short = UnmaskLM(spec, "threshold:0.9", likelihood_canvas=2)
    with pytest.raises(UnmaskError, match="and likelihood_canvas is 2; give at least"):
        short.loglikelihood(asked)


def test_long_texts_are_cut_so_that_each_token_is_scored_once(tiny_model):
    limit = tiny_model.network.config.max_position_embeddings
    size = 2 * limit + 7
    pieces = cut_text(tiny_model, "7 " * size)
    assert sum(len(piece.places) for piece in pieces) == size
    assert all(len(piece.tokens) <= limit for piece in pieces)
    assert len(pieces[0].places) == limit
    assert all(len(piece.given) == limit // 2 for piece in pieces[1:])
    assert cut_text(tiny_model, "") == []
