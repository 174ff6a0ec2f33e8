"""Adapter for lm-evaluation-harness: importing this registers the model class `unmask`. Needs `pip
install "unmask[lm-eval]"`."""

from __future__ import annotations

import ast
import builtins
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather, gather_object
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import simple_parse_args_string
from tqdm import tqdm

from unmask.decoding import check_cache, decode, encode_prompt
from unmask.errors import UnmaskError
from unmask.evaluation.samples import pass_at_k
from unmask.models import load_model
from unmask.policies import load_policy
from unmask.rng import row_keys
from unmask.sandbox import Job, check_all, defined_names, require_sandbox

UNDERSTOOD = {"until", "max_gen_toks", "do_sample", "temperature"}


@dataclass
class Cost:
    """What a task's answers took, summed over its prompts: passes, tokens before the end of the
    text, and seconds of decoding."""

    prompts: int = 0
    nfe: int = 0
    tokens: int = 0
    seconds: float = 0.0


class UnmaskLM(LM):
    """A frozen model with an unmasking policy, for the harness' `generate_until` tasks.

    Args:
        model: an embedded model, a directory or a Hub repository.
        policy: a sampler's spec, for example threshold:0.9, or a policy directory.
        max_new_tokens: L; None takes what each task asks for (`max_gen_toks`), and where it says
            nothing what the model was trained on, or 256.
        block_length: BL; None is full diffusion.
        batch_size: rows side by side.
        device: of the model; under `accelerate launch` each process takes its own GPU.
        dtype: bfloat16 or float32.
        cache: "prefix" or "dual" caches keys and values (an approximation); None is exact.
        seed: of everything random.
        max_batch_size: of the harness; batches do not grow by themselves here, so it is not used.

    Raises:
        UnmaskError: for settings that cannot be used.
    """

    def __init__(
        self,
        model: str = "embedded/chain",
        policy: str = "threshold:0.9",
        max_new_tokens: int | None = None,
        block_length: int | None = None,
        batch_size: int | str = 8,
        device: str | None = None,
        dtype: str = "bfloat16",
        cache: str | None = None,
        seed: int = 0,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if dtype not in ("bfloat16", "float32"):
            raise UnmaskError(f"dtype is {dtype!r}; give bfloat16 or float32")
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise UnmaskError(f"batch_size is {batch_size!r}; give a number of rows, at least 1")
        for name, value in (("max_new_tokens", max_new_tokens), ("block_length", block_length)):
            if value is not None and value < 1:
                raise UnmaskError(f"{name} is {value}; give at least 1, or leave it out")
        device = device or "cpu"
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            state = PartialState(cpu=device == "cpu", timeout=timedelta(days=7))
            self._rank, self._world_size = state.process_index, state.num_processes
            device = "cpu" if device == "cpu" else str(state.device)
        self._device = torch.device(device)
        self.model = load_model(model, device=device, dtype=getattr(torch, dtype))
        check_cache(self.model, cache, None, 0.0)
        self.policy = load_policy(policy, device=self.model.device)
        self.batch_size, self.max_new_tokens, self.seed = int(batch_size), max_new_tokens, seed
        self.settings: dict[str, Any] = {
            "block_length": block_length,
            "cache": cache,
            "batch_size": self.batch_size,
        }
        self.described = {
            "unmask_model": str(model),
            "unmask_policy": policy,
            "max_new_tokens": max_new_tokens,
        } | self.settings
        self.costs: dict[str, Cost] = {}

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> UnmaskLM:
        """An instance for the harness' own command, whose default device is `cuda:0`: without a GPU
        that means the CPU."""
        given = arg_dict | {
            name: value for name, value in (additional_config or {}).items() if value is not None
        }
        if str(given.get("device", "")).startswith("cuda") and not torch.cuda.is_available():
            given["device"] = "cpu"
        return cls(**given)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> UnmaskLM:
        """The same from `name=value,…`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @property
    def tokenizer_name(self) -> str:
        return str(self.model.name).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template that `apply_chat_template` uses, for the harness' records."""
        return self.model.tokenizer.chat_template if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as the model's own chat template writes it.

        Raises:
            UnmaskError: if its tokenizer has no template.
        """
        if self.model.tokenizer.chat_template is None:
            raise UnmaskError(
                f"model {self.model.name} has no chat template; leave out --apply-chat-template"
            )
        options = {
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        return self.model.tokenizer.apply_chat_template(chat_history, tokenize=False, **options)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers to requests of (context, generation options), each cut at the first of its
        `until` strings.

        The whole buffer of L positions is decoded, as these models do; what comes behind an `until`
        string costs passes all the same.
        """
        default = self.model.max_new_tokens or 256
        options: list[dict[str, Any]] = [
            dict(normalize_gen_kwargs(request.arguments[1], default)) for request in requests
        ]
        groups: dict[tuple[str, int, float], list[int]] = {}
        for i, (request, option) in enumerate(zip(requests, options, strict=True)):
            length = self.max_new_tokens or option["max_gen_toks"]
            groups.setdefault(
                (str(request.task_name), length, float(option.get("temperature") or 0.0)), []
            ).append(i)
        if unknown := {name for option in options for name in option} - UNDERSTOOD:
            tqdm.write(
                "generation options that a diffusion model here has no use for: "
                f"{', '.join(sorted(unknown))}"
            )
        texts = [""] * len(requests)
        with tqdm(
            total=len(requests), disable=disable_tqdm or self.rank > 0, desc="Answering"
        ) as bar:
            for (task, length, temperature), members in groups.items():
                ids = {i: encode_prompt(self.model, requests[i].arguments[0]) for i in members}
                keys = dict(
                    zip(members, row_keys([ids[i] for i in members], self.seed), strict=True)
                )
                members.sort(key=lambda i: -len(ids[i]))
                cost = self.costs.setdefault(task, Cost())
                for start in range(0, len(members), 4 * self.batch_size):
                    part = members[start : start + 4 * self.batch_size]
                    for i, text in zip(
                        part, self.answers(part, ids, keys, length, temperature, cost), strict=True
                    ):
                        texts[i] = postprocess_generated_text(text, options[i]["until"], None)
                        self.cache_hook.add_partial("generate_until", requests[i].args, texts[i])
                    bar.update(len(part))
        self.share_costs()
        return texts

    def share_costs(self) -> None:
        """Adds up what all processes spent; every process calls this as often."""
        if self.world_size == 1:
            return
        totals: dict[str, Cost] = {}
        for costs in gather_object([self.costs]):
            for task, cost in costs.items():
                total = totals.setdefault(task, Cost())
                for name, value in asdict(cost).items():
                    setattr(total, name, getattr(total, name) + value)
        self.costs = totals if self.rank == 0 else {}

    def answers(
        self,
        part: Sequence[int],
        ids: Mapping[int, list[int]],
        keys: Mapping[int, int],
        length: int,
        temperature: float,
        cost: Cost,
    ) -> list[str]:
        """Decodes some of the requests, and adds what that took to `cost`."""
        began = time.perf_counter()
        settings = self.settings | {
            "block_length": min(self.settings["block_length"] or length, length)
        }
        rows, of_rows = [ids[i] for i in part], [keys[i] for i in part]
        generation = decode(
            self.model,
            rows,
            self.policy,
            max_new_tokens=length,
            temperature=temperature,
            seed=self.seed,
            keys=of_rows,
            **settings,
        )
        cost.prompts += len(part)
        cost.nfe += int(generation.nfe.sum())
        cost.tokens += int(generation.answer_tokens.sum())
        cost.seconds += time.perf_counter() - began
        return generation.text

    def get_model_info(self) -> dict[str, Any]:
        """Settings and costs, which the harness puts into the `config` of its results."""
        return self.described | {"costs": self.report()}

    def report(self) -> dict[str, dict[str, float]]:
        """For each task: prompts, mean NFE, tokens per forward, and seconds of decoding, of all
        processes together."""
        return {
            task: asdict(cost)
            | {"nfe": cost.nfe / cost.prompts, "tokens_per_forward": cost.tokens / cost.nfe}
            for task, cost in self.costs.items()
        }

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise UnmaskError(
            "the task asks for log-likelihoods, and unmasking policies write text; use a task of "
            "type generate_until"
        )

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise UnmaskError(
            "the task asks for log-likelihoods, and unmasking policies write text; use a task of "
            "type generate_until"
        )

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return gather(tensor.to(self._device)) if self.world_size > 1 else tensor  # type: ignore[return-value]

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        found = gather_object([obj]) if self.world_size > 1 else [obj]
        return found if self.rank == dst else None

    def barrier(self) -> None:
        if self.world_size > 1:
            PartialState().wait_for_everyone()


register_model("unmask")(UnmaskLM)


class CodeEval:
    """What the harness' programming tasks take for the `code_eval` metric of the `evaluate`
    library: here programs run in the sandbox."""

    def compute(
        self,
        references: Sequence[str],
        predictions: Sequence[Sequence[str]],
        k: Iterable[int] = (1,),
        **_: Any,
    ) -> tuple[dict[str, float], dict[int, list[bool]]]:
        """pass@k, and which programs passed.

        Args:
            references: of each problem, the tests' text.
            predictions: of each problem, its programs.
            k: of pass@k.
        """
        jobs = [
            job_of(program, test)
            for test, programs in zip(references, predictions, strict=True)
            for program in programs
        ]
        outcomes = iter(check_all(jobs))
        passed = {
            i: [next(outcomes).passed for _ in programs] for i, programs in enumerate(predictions)
        }
        n = min(map(len, passed.values()))
        rates = {
            f"pass@{j}": [pass_at_k(len(each), sum(each), j) for each in passed.values()]
            for j in k
            if j <= n
        }
        return {name: sum(values) / len(values) for name, values in rates.items()}, passed


def job_of(program: str, test: str) -> Job:
    """A check of a program by tests that call its names. Names that the tests define, and Python's
    own, stay the tests'."""
    try:
        used = {node.id for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Name)}
    except (SyntaxError, ValueError):
        used = set()
    own = {*defined_names(test), *dir(builtins)}
    return Job(
        program,
        test,
        names=tuple(name for name in dict.fromkeys(defined_names(program)) if name in used - own),
    )


REFUSAL = (
    "a task runs code that the model wrote; read docs/security.md and say --allow-code-execution"
)


def use_sandbox(allowed: bool) -> None:
    """Lets the harness' tasks that load `code_eval` have `CodeEval`, for this process; called
    before the tasks are loaded.

    Args:
        allowed: whether code may run; else loading it raises an `UnmaskError`.
    """
    import evaluate

    if allowed:
        require_sandbox()
    original = evaluate.load

    def load(path: str, *args: Any, **options: Any) -> Any:
        if path != "code_eval":
            return original(path, *args, **options)
        if not allowed:
            raise UnmaskError(REFUSAL)
        return CodeEval()

    evaluate.load = load
