"""Processes: devices, sums over a group of two, and a backend that takes tensors of one device."""

import json
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode

import unmask
import unmask.training
from tests.forks import run_module, run_two
from unmask import UnmaskError
from unmask.processes import PATIENCE, Processes, bf16_autocast, computes_bf16, usable_device


def test_one_process_is_its_own_group():
    alone = Processes.join("cpu")
    assert (alone.rank, alone.world, alone.main) == (0, 1, True)
    assert alone.total(torch.ones(2)).tolist() == [1, 1]
    assert alone.means({"a": 3.0, "b": 1.0}, 4) == {"a": 0.75, "b": 0.25}
    assert alone.share(range(3)) == [0, 1, 2] and alone.gather("x") == ["x"]
    parameter = torch.nn.Parameter(torch.zeros(2))
    alone.mean_gradients([parameter])
    assert parameter.grad is None


@pytest.mark.parametrize("device", ["warp", "cpu:x", "cuda:99", ""])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(UnmaskError, match="give cpu, cuda or cuda:N"):
        usable_device(device)


@pytest.mark.parametrize("has", ["amx_bf16", "avx512_bf16", "bf16", "avx512_f", None])
def test_bf16_is_for_cpus_that_compute_it(monkeypatch, has):
    """Autocast is left out elsewhere, where it is many times slower."""
    cpu, able = torch.device("cpu"), has not in ("avx512_f", None)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {has: True}, raising=False)
    assert computes_bf16(cpu) is able
    assert computes_bf16(torch.device("cuda"))
    numbers = torch.ones(2, 2)
    for enabled in (True, False):
        with bf16_autocast(cpu, enabled):
            found = (numbers @ numbers).dtype
        assert found == (torch.bfloat16 if able and enabled else torch.float32)
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # as torch 2.9
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has == "avx512_bf16")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has == "amx_bf16")
    assert computes_bf16(cpu) is (has in ("avx512_bf16", "amx_bf16"))
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert computes_bf16(cpu) is torch.ops.mkldnn._is_mkldnn_bf16_supported()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not computes_bf16(cpu)


def test_all_processes_load_the_model_in_one_dtype(monkeypatch):
    """Also where one of them has a CPU of another kind."""
    alone = Processes(0, 1, torch.device("cpu"))
    for here in (True, False):
        monkeypatch.setattr("unmask.processes.computes_bf16", lambda device, here=here: here)
        assert alone.common_dtype("auto") == ("bfloat16" if here else "float32")
        assert alone.common_dtype("float16") == "float16"
    monkeypatch.setattr("unmask.processes.computes_bf16", lambda device: True)
    for there, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(Processes, "gather", lambda self, value, there=there: [value, there])
        assert alone.common_dtype("auto") == dtype


def test_a_single_process_is_on_the_device_it_was_given(monkeypatch):
    """Not on the first one: `cuda:1` stays `cuda:1`."""
    monkeypatch.setattr("unmask.processes.usable_device", torch.device)
    assert Processes.join("cuda:1").device == torch.device("cuda:1")


def test_processes_that_would_share_one_gpu_are_refused(monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UnmaskError, match="there are 2 processes, which would share it; give cuda"):
        Processes.join("cuda:0")


@pytest.mark.parametrize("world", ["2", "abc", "", "0", "-1"])
def test_a_world_that_no_launcher_made_is_refused(monkeypatch, world):
    monkeypatch.setenv("WORLD_SIZE", world)
    for name in ("RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    says = f"WORLD_SIZE is '{world}', and no launcher set RANK and MASTER_ADDR; unset it, or use"
    with pytest.raises(UnmaskError, match=says):
        Processes.join("cpu")


GROUP = """
import json, sys, torch
from unmask.processes import Processes
p = Processes.join("cpu")
a, b = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))
if p.rank:
    a.grad = torch.tensor([2.0, 4.0])
p.mean_gradients([a, b])
p.barrier()
def group_timeout():
    group = torch.distributed.distributed_c10d._get_default_group()
    return group._get_backend(torch.device("cpu")).options._timeout.days

found = {
    "rank": p.rank,
    "world": p.world,
    "main": p.main,
    "total": p.total(torch.tensor([p.rank + 1])).tolist(),
    "means": p.means({"x": 10.0 * p.rank}, p.rank + 1),
    "grads": [a.grad.tolist(), b.grad.tolist()],
    "share": p.share(range(5)),
    "gather": p.gather({"rank": p.rank}),
    "timeout": group_timeout(),
}
open(f"{sys.argv[1]}/{p.rank}.json", "w").write(json.dumps(found))
"""


def check_group(directory):
    first, second = (json.loads((directory / f"{rank}.json").read_text()) for rank in (0, 1))
    assert (first["rank"], first["main"], second["rank"], second["main"]) == (0, True, 1, False)
    assert (first["share"], second["share"]) == ([0, 2, 4], [1, 3])
    for found in (first, second):
        assert found["world"] == 2 and found["total"] == [3]
        assert found["means"] == {"x": 3.333333}
        assert found["grads"] == [[1.0, 2.0], [0.0, 0.0, 0.0]]
        assert found["gather"] == [{"rank": 0}, {"rank": 1}]
        assert found["timeout"] == PATIENCE.days


def test_two_processes_as_torchrun_starts_them(tmp_path, monkeypatch):
    def act(words):
        exec(GROUP, {})
        return 0

    monkeypatch.setattr("tests.forks.main", act)
    run_two(tmp_path / "log", tmp_path)
    check_group(tmp_path)


class OnGpu(torch.Tensor):
    """A tensor that stands for one on a GPU."""


class FakeGpu(TorchFunctionMode):
    """`x.to("cuda")` gives a tensor of the CPU that is marked as one of a GPU."""

    def __torch_function__(self, function, types, arguments=(), others=None):
        if function is torch.Tensor.to and torch.device("cuda") in arguments:
            return arguments[0].detach().clone().as_subclass(OnGpu)
        return function(*arguments, **(others or {}))


def refuse_cpu(tensor):
    """The collective of two processes whose backend, as NCCL, has none for tensors of the CPU; the
    other process has the same values."""
    if not isinstance(tensor, OnGpu):
        raise RuntimeError("No backend type associated with device type cpu")
    tensor.mul_(2)


def test_collectives_are_given_tensors_of_the_groups_own_device(monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", refuse_cpu)
    pair = Processes(0, 2, torch.device("cuda"))
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    with FakeGpu():
        assert pair.total(torch.tensor([3.0])).tolist() == [6.0]
        assert pair.means({"x": 3.0}, 2) == {"x": 1.5}
        pair.mean_gradients([parameter])
    assert parameter.grad.tolist() == [1.0, 2.0]


def test_training_has_no_collectives_of_its_own():
    for path in Path(unmask.training.__file__).parent.glob("*.py"):
        if path.name != "pretrain.py":
            text = path.read_text(encoding="utf-8")
            for word in ("torch.distributed", "Accelerator", "PartialState"):
                assert word not in text, (path.name, word)


def test_the_model_is_loaded_onto_the_device_of_this_process(tmp_path, monkeypatch):
    """After the processes were joined: none may put weights on another one's GPU first."""
    import unmask.training.session as session

    class Loaded(Exception):
        pass

    def load_model(name, *, device, dtype):
        raise Loaded(device)

    second = Processes(1, 2, torch.device("cuda:1"))
    monkeypatch.setattr(Processes, "join", staticmethod(lambda device: second))
    monkeypatch.setattr(Processes, "gather", lambda self, value: [None, value])
    monkeypatch.setattr(session, "load_model", load_model)
    with pytest.raises(Loaded, match="cuda:1"):
        unmask.train(unmask.TrainConfig(out=tmp_path / "run", device="cuda"))


def test_two_processes_as_accelerate_starts_them_train_one_policy(tmp_path, tiny_dir):
    """What accelerate starts are new processes; it runs in a fork itself, which has it loaded."""
    launch = "--multi_gpu --num_processes 2 --num_machines 1"
    launch += " --mixed_precision no --dynamo_backend no --main_process_port 0 -m unmask.cli train"
    options = "--max-new-tokens 6 --rounds 2 --prompts 2 --rollouts 2 --width 16 --eval-prompts 3"
    run = tmp_path / "run"
    words = f"{launch} {options} --model {tiny_dir} --out {run}".split()
    result = run_module("accelerate.commands.launch", *words, seconds=600)
    assert result.returncode == 0, result.stderr[-2000:]
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert (run / "best" / "model.safetensors").exists()
    assert json.loads((run / "run.json").read_text())["provenance"]["processes"] == 2
