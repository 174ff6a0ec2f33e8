"""The model class of the adapter for lm-evaluation-harness."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, cast

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import simple_parse_args_string
from tqdm import tqdm

from unmask.decoding import decode, encode_prompt
from unmask.decoding.constraints import longest_choice
from unmask.decoding.generation import answer_of, answer_text, find_stop
from unmask.decoding.options import DecodeOptions, decode_options
from unmask.decoding.request import Request, check_request, with_trained_blocks
from unmask.errors import UnmaskError
from unmask.integrations.lm_eval.likelihoods import (
    check_canvas,
    check_likelihood,
    cut_text,
    decodes_as,
    join_texts,
    score_texts,
)
from unmask.models import Model, load_model
from unmask.models.chat import render_chat
from unmask.policies import load_policy
from unmask.processes import Processes
from unmask.rng import row_keys
from unmask.scoring import Text

# Generation options of the harness that mean something here.
UNDERSTOOD = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"}


@dataclass(frozen=True)
class TaskCost:
    """What a task's answers took, summed over its prompts: passes, tokens before the end of the
    text or what cuts it, and seconds of decoding."""

    prompts: int = 0
    nfe: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: TaskCost) -> TaskCost:
        return TaskCost(
            *(getattr(self, each.name) + getattr(other, each.name) for each in fields(TaskCost))
        )


class UnmaskLM(LM):
    """A frozen model with an unmasking policy, for all tasks of the harness: `generate_until`,
    `loglikelihood`, `loglikelihood_rolling` and `multiple_choice`.

    What is given in the options holds for every task; where they are left alone the task decides: L
    (`max_new_tokens`) is then the length of the longest of the `choices`, or without these its
    `max_gen_toks`, or where it says nothing what the model was trained on, or 256; and temperature,
    top_p and top_k are the task's. A block length above a task's L is full diffusion.

    Args:
        model: an embedded model, a directory or a Hub repository.
        policy: a sampler's spec, for example threshold:0.9, or a policy directory.
        options: how requests are answered.
        batch_size: rows side by side.
        device: of the model; under `accelerate launch` each process takes its own GPU.
        dtype: bfloat16, float32, or auto for the one that the device computes faster.
        max_batch_size: of the harness; batches do not grow by themselves here, so it is not used.
        processes: the group that this process has joined; None joins the launcher's.
        likelihood: for tasks that ask for log-likelihoods: LLaDA's "bound", or the exact one of
            decoding one token a pass in an order: "left-to-right", or that of the "policy".
        mc_samples: masks that the bound is estimated with, an even number.
        likelihood_canvas: L, to which each continuation is filled up with end-of-text tokens that
            are scored too, as an answer stands on a canvas; None scores it alone.
        given: names of fields of `options` that were given, though with their default: a
            temperature of 0 then holds for every task.
        settings: fields of `DecodeOptions`, which go before those of `options`, and are given.

    Raises:
        UnmaskError: for settings that cannot be used.
    """

    def __init__(
        self,
        model: str = "embedded/chain",
        policy: str = "threshold:0.9",
        options: DecodeOptions | None = None,
        *,
        batch_size: int | str = 8,
        device: str | None = None,
        dtype: str = "auto",
        max_batch_size: int | None = None,
        processes: Processes | None = None,
        likelihood: str = "bound",
        mc_samples: int | str = 128,
        likelihood_canvas: int | str | None = None,
        given: Collection[str] = (),
        **settings: Any,
    ) -> None:
        super().__init__()
        if dtype not in ("auto", "bfloat16", "float32"):
            raise UnmaskError(f"dtype is {dtype!r}; give auto, bfloat16 or float32")
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise UnmaskError(f"batch_size is {batch_size!r}; give a number of rows, at least 1")
        self.likelihood, self.mc_samples = check_likelihood(likelihood, mc_samples)
        self.likelihood_canvas = check_canvas(likelihood_canvas)
        self.options, usual = decode_options(options, settings), DecodeOptions()
        self.given = {
            name
            for name in ("temperature", "top_p", "top_k")
            if name in (*given, *settings) or getattr(self.options, name) != getattr(usual, name)
        }
        self.processes = processes or Processes.join(device or "cpu")
        self._rank, self._world_size = self.processes.rank, self.processes.world
        self._device = self.processes.device
        dtype = self.processes.common_dtype(dtype)
        self.model = load_model(model, device=self._device, dtype=dtype)
        self.policy = load_policy(policy, device=self.model.device)
        shortest = (self.model.eos_ids[0],)  # the tasks' prompts are not known yet
        check_request(
            self.model,
            Request(shortest, self.policy, replace(self.options, choices=()).with_length(1)),
        )
        self.batch_size = int(batch_size)
        self.described = {
            "unmask_model": str(model),
            "unmask_policy": policy,
            **vars(self.options),
            "given": sorted(self.given),
            "batch_size": self.batch_size,
            "likelihood": self.likelihood,
            "mc_samples": self.mc_samples,
            "likelihood_canvas": self.likelihood_canvas,
        }
        self.costs: dict[str, TaskCost] = {}

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> UnmaskLM:
        """An instance for the harness' own command, whose default device is `cuda:0`: without a GPU
        that means the CPU, and with several processes the GPU of each."""
        given = arg_dict | {
            name: value for name, value in (additional_config or {}).items() if value is not None
        }
        device = str(given.get("device", ""))
        if device.startswith("cuda") and not torch.cuda.is_available():
            given["device"] = "cpu"
        elif device == "cuda:0":
            given["device"] = "cuda"
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
            UnmaskError: if its tokenizer has no template, or that cannot write the conversation.
        """
        if self.model.tokenizer.chat_template is None:
            raise UnmaskError(
                f"model {self.model.name} has no chat template; leave out --apply-chat-template"
            )
        return render_chat(
            self.model.tokenizer,
            chat_history,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers to requests of (context, generation options), each cut at the first of its
        `until` strings.

        The whole buffer of L positions is decoded, as these models do; what comes behind an `until`
        string costs passes all the same.
        """
        default = self.model.max_new_tokens or 256
        asked: list[dict[str, Any]] = [
            dict(normalize_gen_kwargs(each.arguments[1], default)) for each in requests
        ]
        if unknown := {name for each in asked for name in each} - UNDERSTOOD:
            tqdm.write(
                "generation options that a diffusion model here has no use for: "
                f"{', '.join(sorted(unknown))}"
            )
        groups: dict[tuple[str, DecodeOptions], list[int]] = {}
        for i, (request, wishes) in enumerate(zip(requests, asked, strict=True)):
            groups.setdefault((str(request.task_name), self.options_for(wishes)), []).append(i)
        texts = [""] * len(requests)
        with tqdm(
            total=len(requests), disable=disable_tqdm or self.rank > 0, desc="Answering"
        ) as bar:
            for (task, options), members in groups.items():
                stops = {
                    i: (*options.stop, *(text for text in asked[i]["until"] if text))
                    for i in members
                }
                for part, rows in self.answers(task, options, stops, requests):
                    for i, row in zip(part, rows, strict=True):
                        # Cut before special tokens are dropped: many `until` strings are such.
                        texts[i] = answer_text(self.model, row, stops[i])
                        self.cache_hook.add_partial("generate_until", requests[i].args, texts[i])
                    bar.update(len(part))
        return texts

    def options_for(self, wishes: Mapping[str, Any]) -> DecodeOptions:
        """The options for a request: this model's own, and where they were not given what the task
        wishes."""
        own = self.options
        wished = {
            name: wishes[name]
            for name in ("temperature", "top_p", "top_k")
            if wishes.get(name) is not None and name not in self.given
        }
        draws = wished.get("temperature", own.temperature)
        changes = wished if draws else {"temperature": draws}  # greedy answers draw nothing
        if changes.get("top_k", 0) < 0:
            changes["top_k"] = 0  # some tasks write -1 for "all"
        length = own.max_new_tokens or self.choice_length or wishes["max_gen_toks"]
        options = replace(own, **changes).with_length(length)
        options = with_trained_blocks(self.model, self.policy, options)
        own_blocks = min(self.model.attention_block or length, length)
        return replace(options, block_length=options.block_length or own_blocks)

    @cached_property
    def choice_length(self) -> int | None:
        """How many tokens the longest of the choices has; None without choices."""
        choices = self.options.choices
        return longest_choice(self.model, choices) if choices else None

    def answers(
        self,
        task: str,
        options: DecodeOptions,
        stops: Mapping[int, Sequence[str]],
        requests: Sequence[Instance],
    ) -> Iterator[tuple[list[int], list[list[int]]]]:
        """Decodes the requests of some numbers, longest first and four batches at a time, and adds
        what that took to the task's cost; yields the numbers and buffers of each part.

        Args:
            task: their name in the costs.
            options: how they are decoded.
            stops: for each number what cuts its answer.
            requests: all of them.
        """
        ids = {i: encode_prompt(self.model, requests[i].arguments[0]) for i in stops}
        keys = dict(zip(ids, row_keys(list(ids.values()), options.seed), strict=True))
        members = sorted(ids, key=lambda i: -len(ids[i]))
        for start in range(0, len(members), 4 * self.batch_size):
            part = members[start : start + 4 * self.batch_size]
            began = time.perf_counter()
            generation = decode(
                self.model,
                [ids[i] for i in part],
                self.policy,
                options,
                batch_size=self.batch_size,
                keys=[keys[i] for i in part],
            )
            seconds, rows = time.perf_counter() - began, generation.tokens.tolist()
            pairs = zip(part, rows, strict=True)
            spent = TaskCost(
                prompts=len(part),
                nfe=int(generation.nfe.sum()),
                tokens=sum(count_tokens(self.model, row, stops[i]) for i, row in pairs),
                seconds=seconds,
            )
            self.costs[task] = self.costs.get(task, TaskCost()) + spent
            yield part, rows

    def share_costs(self) -> None:
        """Adds up what all processes spent; every process calls this as often. The methods that
        answer do not: the harness leaves them out where a process has all its answers in a
        cache."""
        totals: dict[str, TaskCost] = {}
        for costs in self.processes.gather(self.costs):
            for task, cost in costs.items():
                totals[task] = totals.get(task, TaskCost()) + cost
        self.costs = totals if self.processes.main else {}

    def get_model_info(self) -> dict[str, Any]:
        """Settings and costs, which the harness puts into the `config` of its results."""
        return self.described | {"costs": self.report()}

    def report(self) -> dict[str, dict[str, float | int]]:
        """For each task: prompts, mean NFE, tokens per forward, and seconds of decoding, of all
        processes together."""
        return {
            task: asdict(cost)
            | {
                "nfe": cost.nfe / cost.prompts,
                "tokens_per_forward": cost.tokens / cost.nfe if cost.nfe else 0.0,
            }
            for task, cost in self.costs.items()
        }

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """For requests of (context, continuation) the continuation's log-likelihood, in nats, and
        whether the policy, greedily, writes just this continuation. A continuation with a token
        that the model never proposes, such as an unknown word, has −∞."""
        canvas = self.likelihood_canvas
        pairs = [cast(tuple[str, str], request.args) for request in requests]
        texts = [join_texts(self.model, *pair, canvas) for pair in pairs]
        values = [0.0] * len(texts)
        greedy = [False] * len(texts)
        for part, found in self.likelihoods(texts, requests, disable_tqdm):
            began = time.perf_counter()
            hits, passes = decodes_as(self, [texts[i] for i in part])
            spent = TaskCost(nfe=passes, seconds=time.perf_counter() - began)
            self.costs[str(requests[part[0]].task_name)] += spent
            for i, value, hit in zip(part, found, hits, strict=True):
                values[i], greedy[i] = value, hit
                answer = (value, hit)
                self.cache_hook.add_partial("loglikelihood", requests[i].args, answer)
        return list(zip(values, greedy, strict=True))

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """For requests of (text,) its log-likelihood, in nats, with nothing before it. A text that
        is longer than the canvas the model was made for is scored in pieces, each given the half
        canvas before it."""
        pieces = [(i, t) for i, r in enumerate(requests) for t in cut_text(self.model, r.args[0])]
        values = [0.0] * len(requests)
        texts, owners = [text for _, text in pieces], [requests[i] for i, _ in pieces]
        for part, found in self.likelihoods(texts, owners, disable_tqdm):
            for place, value in zip(part, found, strict=True):
                values[pieces[place][0]] += value
        for (owner, _), (next_owner, _) in pairwise(pieces):
            if owner == next_owner:  # a further piece of a text is no further prompt
                self.costs[str(requests[owner].task_name)] += TaskCost(prompts=-1)
        for request, value in zip(requests, values, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return values

    def likelihoods(
        self, texts: Sequence[Text], requests: Sequence[Instance], disable_tqdm: bool
    ) -> Iterator[tuple[list[int], list[float]]]:
        """Scores texts, those of one task together, longest first, and adds what that took to the
        task's cost; yields the numbers and log-likelihoods of each part."""
        groups: dict[str, list[int]] = {}
        for i in sorted(range(len(texts)), key=lambda i: -len(texts[i].tokens)):
            groups.setdefault(str(requests[i].task_name), []).append(i)
        quiet = disable_tqdm or self.rank > 0
        with tqdm(total=len(texts), disable=quiet, desc="Scoring") as bar:
            for task, members in groups.items():
                for start in range(0, len(members), 4 * self.batch_size):
                    part = members[start : start + 4 * self.batch_size]
                    began = time.perf_counter()
                    found = score_texts(self, [texts[i] for i in part])
                    spent = TaskCost(
                        prompts=len(part),
                        nfe=sum(each.passes for each in found),
                        tokens=sum(each.tokens for each in found if each.passes),
                        seconds=time.perf_counter() - began,
                    )
                    self.costs[task] = self.costs.get(task, TaskCost()) + spent
                    yield part, [each.log_likelihood for each in found]
                    bar.update(len(part))

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.world_size == 1:
            return tensor
        return torch.cat([each.reshape(-1) for each in self.processes.gather(tensor.cpu())])

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        found = self.processes.gather(obj)
        return found if self.rank == dst else None

    def barrier(self) -> None:
        """What the harness calls in every process, once for each type of request."""
        self.share_costs()
        self.processes.barrier()


def count_tokens(model: Model, row: Sequence[int], stop: Sequence[str]) -> int:
    """Tokens of a buffer that were revealed before its end or the first of some strings."""
    tokens = answer_of(model, row)
    cut = find_stop(model, tokens, stop)
    return sum(token != model.mask_id for token in tokens[: len(tokens) if cut is None else cut[0]])
