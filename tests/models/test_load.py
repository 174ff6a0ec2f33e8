"""`load_model`: its arguments, and what it leaves as it was."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from transformers import logging as transformers_logging

import unmask
import unmask.models.load as load
from tests.forks import run_code
from unmask import UnmaskError, embedded_models, load_model
from unmask.models.load import check_one_device, quiet_transformers


def test_each_embedded_model_says_on_which_task_it_was_trained(tiny_dir, tmp_path):
    tasks = {name.split("/")[1].split("-")[0] for name in embedded_models()}
    assert {load.own_task(name).split("-")[0] for name in embedded_models()} == tasks
    assert load.own_task("embedded/chain-dream") == "chain"
    assert load.own_task("embedded/word-problems") == "word-problems"
    assert load.own_task(str(tiny_dir)) == "chain"
    with pytest.raises(UnmaskError, match=r"does not say .*; give a task that it knows"):
        load.own_task(str(tmp_path))
    (tmp_path / "recipe.json").write_text('{"recipe": {"steps": 3}}')
    with pytest.raises(UnmaskError, match="recipe"):
        load.own_task(str(tmp_path))


def test_the_dtype_may_be_a_name(tiny_dir):
    for name in ("bfloat16", "float16", "float32"):
        assert load_model(tiny_dir, dtype=name).dtype == getattr(torch, name)
        assert load_model(tiny_dir, dtype=getattr(torch, name)).dtype == getattr(torch, name)


def test_bf16_is_the_default_only_where_the_device_computes_it(tiny_dir, monkeypatch):
    """A CPU that emulates it takes 6 times as long for `embedded/chain`, and longer for others."""
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("unmask.processes.computes_bf16", lambda device, has=has: has)
        assert load_model(tiny_dir).dtype == load_model(tiny_dir, dtype="auto").dtype == dtype


def test_the_default_dtype_is_that_of_the_device_that_gets_the_weights(monkeypatch):
    cpu = torch.device("cpu")
    for accelerator in (None, torch.device("cuda")):
        monkeypatch.setattr(
            torch.accelerator, "current_accelerator", lambda check_available, a=accelerator: a
        )
        elsewhere = accelerator or cpu
        for device_map, device in (
            (None, cpu),
            ("auto", elsewhere),
            ("cpu", cpu),
            ("cuda:1", torch.device("cuda:1")),
            ({"": "cpu"}, cpu),
            ({"model": 1, "lm_head": 1}, torch.device("cuda:1")),
            ({"": []}, elsewhere),
        ):
            assert load.weights_device(cpu, device_map) == device


def test_a_quantized_model_is_put_on_the_device_that_was_named(tiny_dir, monkeypatch):
    """Without a map, transformers puts it on the current GPU."""
    placements, real = [], load.load_network

    def load_network(family, directory, dtype, placement):
        placements.append(placement["device_map"])
        return real(family, directory, dtype, {})

    monkeypatch.setattr(load, "load_network", load_network)
    monkeypatch.setattr(load, "usable_device", torch.device)
    for given in ({}, {"device": "cuda:1"}, {"device": "cuda:1", "device_map": "auto"}):
        load_model(tiny_dir, quantization_config=object(), **given)
    assert placements == [{"": "cpu"}, {"": "cuda:1"}, "auto"]


# The tests' own type checks would answer before the package does: a process without them is asked.
WRONG = {
    "load_model(None)": "model is None",
    "load_model(3)": "model is 3",
    "load_model('')": "model is ''",
    "load_model(MODEL, dtype='int8')": "dtype is 'int8'; give auto, bfloat16, float16, float32",
    "load_model(MODEL, dtype='torch.float32')": "dtype is 'torch.float32'",
    "load_model(MODEL, dtype=torch.int8)": "dtype is torch.int8",
    "load_model(MODEL, dtype=None)": "dtype is None",
    "load_model(MODEL, dtype=32)": "dtype is 32",
    "load_model(MODEL, device='meta')": "device 'meta' cannot be used here",
    "load_model(MODEL, device='warp')": "device 'warp' cannot be used here",
    "load_model(MODEL, device=1.5)": "device '1.5' cannot be used here",
    "load_model(MODEL, device=None)": "device 'None' cannot be used here",
    "load_model(MODEL, attn_implementation=3)": "attn_implementation is 3",
    "load_model(MODEL, attn_implementation='fast')": "cannot be loaded",
    "load_model(MODEL, device_map=3)": "device_map is 3",
    "load_model(MODEL, device_map='everywhere')": "cannot be loaded",
    "load_model(MODEL, device_map={'a': 0, 'b': 'cpu'})": "several devices (0, cpu)",
    "load_model(MODEL, block_size=4)": "but this plain model has no blocks; leave it out",
    "load_model(MODEL, block_size=0)": "block_size is 0; give a whole number, at least 1",
    "load_model(MODEL, block_size='4')": "block_size is '4'; give a whole number",
    "load_model(MODEL, revision=3)": "revision is 3",
    "load_model(MODEL, mask_token_id='<mask>')": "mask_token_id is '<mask>'; give the id",
    "load_model(MODEL, mask_token_id=-1)": "mask_token_id is -1",
    "load_model(MODEL, mask_token_id=True)": "mask_token_id is True",
    "load_model(MODEL, mask_token_id=2.0)": "mask_token_id is 2.0",
    "generate(load_model(MODEL), [b'7'], 'random:1', max_new_tokens=4)": "a prompt is b'7'; give",
    "load_policy(None)": "policy is None",
    "load_policy(0.9)": "policy is 0.9",
    "load_policy('')": "policy is ''",
    "load_policy('confidence:' + '9' * 23)": "reveals too many positions",
    "load_policy('confidence:' + '9' * 9999)": "has the value",
    "load_policy('confidence:2@block_length=' + '9' * 23)": "has the setting",
    "load_policy('confidence:2@block_length=0')": "block_length",
    "load_policy(MODEL, device='meta')": "device 'meta' cannot be used here",
    "load_policy(MODEL, revision=3)": "revision is 3",
    "steps_spec(4.0, 8)": "steps is 4.0; give a whole number",
    "steps_spec(True, 8)": "steps is True",
    "steps_spec(0, 8)": "steps is 0",
    "steps_spec(4, None)": "length is None",
    "steps_spec(4, 8, None)": "remasking None has no equal here",
    "steps_spec(4, 8, ['random'])": "remasking ['random'] has no equal here",
}


@pytest.fixture(scope="module")
def answers(tiny_dir):
    """What each wrong call raises: the type's name and the message."""
    code = (
        "import huggingface_hub.constants, json, sys, torch\n"
        "huggingface_hub.constants.HF_HUB_OFFLINE = True\n"
        "from unmask import generate, load_model, load_policy\n"
        "from unmask.policies import steps_spec\n"
        f"MODEL = {str(tiny_dir)!r}\n"
        "found = {}\n"
        "for call in json.loads(sys.argv[1]):\n"
        "    try:\n"
        "        found[call] = ('none', str(eval(call)))\n"
        "    except Exception as error:\n"
        "        found[call] = (type(error).__name__, str(error))\n"
        "print(json.dumps(found))\n"
    )
    result = run_code(code, json.dumps(list(WRONG)))
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("call", WRONG)
def test_wrong_arguments_are_refused_by_a_sentence(answers, call):
    kind, message = answers[call]
    assert kind == "UnmaskError", message
    assert WRONG[call] in message and "\n" not in message and len(message) < 800


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("alpha=1e300", "has the setting 'alpha=1e300'"),
        ("temperature=1e-300", "has the setting"),
        ("beta=1e39", "has the setting"),
        ("beta=0", "policy beta is 0"),
        ("speed=3", "accepted are temperature, beta, alpha"),
    ],
)
def test_settings_beyond_fp32_are_refused(tmp_path, setting, message):
    network = unmask.policies.PolicyNetwork(
        unmask.policies.NetworkConfig(width=16, mlp=16, conditioned=True)
    )
    unmask.LearnedPolicy(network).save_pretrained(tmp_path)
    with pytest.raises(UnmaskError, match=message):
        unmask.load_policy(f"{tmp_path}@{setting}")


@pytest.mark.parametrize("verbosity", [10, 30])
@pytest.mark.parametrize("bars", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_settings_of_transformers_are_as_before(tiny_dir, tmp_path, verbosity, bars, fails):
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    try:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        else:
            transformers_logging.disable_progress_bar()
        if fails:
            broken = shutil.copytree(tiny_dir, tmp_path / "broken")
            (broken / "tokenizer.json").unlink()
            with pytest.raises(UnmaskError, match="no tokenizer files"):
                load_model(broken)
        else:
            load_model(tiny_dir)
        assert transformers_logging.get_verbosity() == verbosity
        assert transformers_logging.is_progress_bar_enabled() == bars
        assert are_progress_bars_disabled() == (not bars)
    finally:
        transformers_logging.set_verbosity(before[0])
        if before[1]:
            transformers_logging.enable_progress_bar()


def test_bars_of_the_hub_alone_come_back_alone():
    transformers_logging.disable_progress_bar()
    enable_progress_bars()
    try:
        with quiet_transformers():
            assert are_progress_bars_disabled()
        assert not are_progress_bars_disabled()
        assert not transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.enable_progress_bar()


def test_a_model_that_lies_on_several_devices_is_refused(tiny_dir, monkeypatch):
    """What `device_map="auto"` gives with two GPUs, or with a GPU that is too small."""
    load_model(tiny_dir, device_map="auto")
    check_one_device({"": torch.device("cpu")})
    check_one_device({"model": 0, "lm_head": 0})
    for spread in ({"model": 0, "lm_head": 1}, {"model": 0, "lm_head": "cpu"}):
        with pytest.raises(UnmaskError, match=r"several devices \(0, (1|cpu)\)"):
            check_one_device(spread)

    real = load.find_family

    def spread_family(config, directory):
        family = real(config, directory)

        def from_pretrained(*arguments, **options):
            network, report = family.network.from_pretrained(*arguments, **options)
            network.hf_device_map = {"model": 0, "lm_head": 1}
            return network, report

        return replace(family, network=SimpleNamespace(from_pretrained=from_pretrained))

    monkeypatch.setattr(load, "find_family", spread_family)
    with pytest.raises(UnmaskError, match="several devices"):
        load_model(tiny_dir, device_map="auto")


DAMAGE = {
    "a type that is no name": ("config.json", {"model_type": {}}, "config.json cannot be used"),
    "architectures that are no list": ("config.json", {"architectures": 3}, "architectures is 3"),
    "layers below 0": ("config.json", {"num_hidden_layers": -1}, "num_hidden_layers is -1"),
    "heads of text": (
        "config.json",
        {"num_attention_heads": "two"},
        "num_attention_heads is 'two'",
    ),
    "a length of 0": ("config.json", {"max_new_tokens": 0}, "cannot be loaded"),
    "a length of text": ("config.json", {"max_new_tokens": "many"}, "cannot be loaded"),
    "half a token": ("config.json", {"max_new_tokens": 1.5}, "has max_new_tokens 1.5"),
    "no template": ("tokenizer_config.json", {"chat_template": 3}, "chat template .* is no text"),
    "an unknown token of no type": ("tokenizer_config.json", {"unk_token": {}}, "cannot be"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_absurd_values_are_refused_by_a_sentence(tiny_dir, tmp_path, name):
    file, changes, message = DAMAGE[name]
    directory = shutil.copytree(tiny_dir, tmp_path / "broken")
    values = json.loads((directory / file).read_text(encoding="utf-8"))
    (directory / file).write_text(json.dumps(values | changes), encoding="utf-8")
    (directory / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(UnmaskError, match=message) as caught:
        load_model(directory)
    assert "\n" not in str(caught.value) and "broken" in str(caught.value)


def test_a_length_limit_of_the_wrong_type_limits_nothing(tiny_dir, tmp_path):
    directory = shutil.copytree(tiny_dir, tmp_path / "odd")
    file = directory / "tokenizer_config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(values | {"model_max_length": {"a": 1}}), encoding="utf-8")
    generation = unmask.generate(load_model(directory), ["7 a ="], "random:4", max_new_tokens=4)
    assert generation.nfe.tolist() == [1]


@pytest.mark.parametrize(
    ("name", "rope"),
    [
        ("rope_scaling", {"type": "dynamic", "factor": 2.0}),
        ("rope_parameters", {"rope_type": "longrope", "rope_theta": 1e4}),
        ("rope_parameters", {"full_attention": {"rope_type": "dynamic"}}),
    ],
)
def test_positions_that_depend_on_the_batch_are_refused(tiny_dir, tmp_path, name, rope):
    """Their frequencies follow the longest row that was seen."""
    directory = shutil.copytree(tiny_dir, tmp_path / "model")
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("rope_parameters", None)
    path.write_text(json.dumps(config | {name: rope}), encoding="utf-8")
    with pytest.raises(UnmaskError, match=r"rope of type \w+ depends on the longest row"):
        load_model(directory)
