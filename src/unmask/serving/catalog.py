"""What is served: models, each with a worker, and policies; and how a body becomes rows."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from unmask.decoding.constraints import allowed_ids, check_limits, longest_choice
from unmask.decoding.options import DecodeOptions, decode_options
from unmask.decoding.prompts import Prompt, encode_prompt, mask_text
from unmask.decoding.request import Request, check_policy, check_request, with_trained_blocks
from unmask.errors import UnmaskError
from unmask.models.base import Model
from unmask.models.load import load_model
from unmask.policies.base import Policy
from unmask.policies.heuristics import HEURISTICS
from unmask.policies.learned import LearnedPolicy
from unmask.policies.load import load_policy
from unmask.rng import row_keys
from unmask.serving.limits import Limits
from unmask.serving.metrics import Metrics
from unmask.serving.protocol import ApiError, Body, ChatBody, CompletionBody
from unmask.serving.worker import Worker

# L where neither the request, nor the server's options, nor the model says it.
USUAL_LENGTH = 256


@dataclass(frozen=True)
class ServedModel:
    """A model and the thread that runs it.

    Attributes:
        name: how clients call it.
        model: the frozen model.
        worker: its engine.
        options: what holds where a request says nothing.
        length: L where a request says nothing.
        created: when it was loaded, in seconds since 1970.
    """

    name: str
    model: Model
    worker: Worker
    options: DecodeOptions
    length: int
    created: int = field(default_factory=lambda: int(time.time()))


@dataclass(frozen=True)
class Catalog:
    """All that one server offers.

    Attributes:
        models: by the name that clients use.
        policies: by the name that clients use; heuristics need not be among them.
        default: the policy of requests that name none.
        limits: what a request may ask for.
        metrics: counts.
    """

    models: Mapping[str, ServedModel]
    policies: Mapping[str, Policy]
    default: str
    limits: Limits
    metrics: Metrics

    def close(self) -> None:
        """Finishes what runs and ends the threads."""
        for served in self.models.values():
            served.worker.close()


@dataclass(frozen=True)
class Plan:
    """What a body asks for.

    Attributes:
        served: the model.
        requests: the rows, prompt by prompt, n for each.
        policy: its name.
        prompt_tokens: of all prompts, each counted once.
    """

    served: ServedModel
    requests: list[Request]
    policy: str
    prompt_tokens: int

    @property
    def alpha(self) -> float | None:
        return self.requests[0].acts_for


def split_name(text: str) -> tuple[str, str]:
    """`NAME=SPEC` → NAME, SPEC; a spec alone is its own name."""
    found = re.fullmatch(r"([\w.-]+)=(.+)", text)
    return (found[1], found[2]) if found else (text, text)


def build_catalog(
    models: Sequence[str],
    policies: Sequence[str],
    options: DecodeOptions,
    limits: Limits,
    *,
    slots: int = 64,
    **loading: Any,
) -> Catalog:
    """Loads models and policies, and starts a worker for each model.

    Args:
        models: each as `load_model` takes it, or `NAME=MODEL`; the first stands first in the list.
        policies: each as `load_policy` takes it, or `NAME=SPEC`; the first is the default.
        options: what holds where a request says nothing.
        limits: what a request may ask for.
        slots: rows in flight of each model.
        loading: keywords of `load_model`.

    Raises:
        UnmaskError: if one of them cannot be loaded, a name is given twice, or a model cannot take
            the options.
    """
    named_models, named_policies = name_all("model", models), name_all("policy", policies)
    metrics = Metrics(list(named_models))
    loaded = {name: load_model(spec, **loading) for name, spec in named_models.items()}
    lengths = {name: find_length(name, m, options, limits) for name, m in loaded.items()}
    device = next(iter(loaded.values())).device
    found = {name: load_policy(spec, device=device) for name, spec in named_policies.items()}
    served = {}
    for name, model in loaded.items():
        worker = Worker(model, name, slots, limits.max_queue, metrics)
        served[name] = ServedModel(name, model, worker, options, lengths[name])
    return Catalog(served, found, next(iter(found)), limits, metrics)


def find_length(name: str, model: Model, options: DecodeOptions, limits: Limits) -> int:
    """L where a request says nothing; such a request is checked as those of clients are.

    Raises:
        UnmaskError: if the model cannot answer it.
    """
    refused = f"model {name!r} cannot be served with these options"
    try:
        length = usual_length(model, options)
        refused += f" and max_new_tokens {length}"
        request = Request((0,), load_heuristic("confidence:1"), options.with_length(length))
        if request.size > limits.max_row_tokens:
            raise UnmaskError(
                f"max_row_tokens is {limits.max_row_tokens}, for a prompt and its answer; give "
                "more, or a smaller max_new_tokens"
            )
        check_request(model, request)
        check_limits(model, request)
    except UnmaskError as error:
        raise UnmaskError(f"{refused}: {error}") from None
    return length


def usual_length(model: Model, options: DecodeOptions) -> int:
    """L where nobody gives it: that of the options, of their longest choice, or of the model.

    Raises:
        UnmaskError: if a choice cannot be an answer of this model.
    """
    if options.max_new_tokens is None and options.choices:
        return longest_choice(model, options.choices)
    return options.max_new_tokens or model.max_new_tokens or USUAL_LENGTH


def name_all(kind: str, texts: Sequence[str]) -> dict[str, str]:
    """The specs by their names.

    Raises:
        UnmaskError: if there are none, or a name is given twice.
    """
    pairs = [split_name(text) for text in texts]
    names = [name for name, _ in pairs]
    if not names:
        raise UnmaskError(f"no {kind} was given; give at least one")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UnmaskError(f"{kind} {twice[0]!r} was given twice; write NAME=SPEC for one of them")
    return dict(pairs)


@lru_cache(maxsize=256)
def load_heuristic(spec: str) -> Policy:
    """A heuristic; equal specs give the same object, so that the engine asks it once for all their
    rows."""
    return load_policy(spec)


def find_policy(catalog: Catalog, name: str) -> Policy:
    """A policy that is served, or a heuristic.

    Raises:
        ApiError: if there is none; a client cannot name a path or a repository.
    """
    if name in catalog.policies:
        return catalog.policies[name]
    if re.split("[:@]", name)[0] in HEURISTICS:
        return load_heuristic(name)
    known = ", ".join([*catalog.policies, *HEURISTICS])
    raise ApiError(
        400,
        f"policy {name!r} is not served; use one of {known}",
        "unmask.policy",
        "policy_not_found",
    )


def find_model(catalog: Catalog, name: str) -> ServedModel:
    """A model that is served.

    Raises:
        ApiError: if there is none of that name.
    """
    if name in catalog.models:
        return catalog.models[name]
    known = ", ".join(catalog.models)
    raise ApiError(
        404, f"model {name!r} is not served; use one of {known}", "model", "model_not_found"
    )


def find_alpha(policy: Policy, body: Body) -> float | None:
    """α that a body asks for, directly or by a target NFE.

    Raises:
        ApiError: if it says both, or the policy takes none.
    """
    asked = body.extensions
    if asked.alpha is None and asked.target_nfe is None:
        return None
    if asked.alpha is not None and asked.target_nfe is not None:
        raise ApiError(400, "alpha and target_nfe were both given; give one", "unmask.alpha")
    conditioned = isinstance(policy, LearnedPolicy) and policy.network.config.conditioned
    if not isinstance(policy, LearnedPolicy) or not conditioned:
        field_name = "alpha" if asked.alpha is not None else "target_nfe"
        raise ApiError(
            400,
            f"{field_name} is for policies that were trained for a range of α; leave it out",
            f"unmask.{field_name}",
        )
    return asked.alpha if asked.target_nfe is None else policy.alpha_for(asked.target_nfe)


def plan_chat(catalog: Catalog, body: ChatBody) -> Plan:
    """The rows of a chat completion.

    Raises:
        ApiError: for a body that this server cannot answer.
        UnmaskError: the same.
    """
    chat: Prompt = [message.plain() for message in body.messages]
    return plan_rows(catalog, body, [chat])


def plan_text(catalog: Catalog, body: CompletionBody) -> Plan:
    """The rows of a text completion.

    Raises:
        ApiError: for a body that this server cannot answer.
        UnmaskError: the same.
    """
    prompts = body.prompts()
    if not prompts:
        raise ApiError(400, "prompt is an empty list; give at least one prompt", "prompt")
    return plan_rows(catalog, body, prompts, body.suffix)


def plan_rows(
    catalog: Catalog, body: Body, prompts: Sequence[Prompt], suffix: str | None = None
) -> Plan:
    """Rows for each prompt, n of them: the i-th is what `generate(model, [prompt] * n, …)` gives at
    row i, whatever the other prompts are."""
    served, limits = find_model(catalog, body.model), catalog.limits
    count = 1 if body.n is None else body.n
    if not 1 <= count <= limits.max_rows or count * len(prompts) > limits.max_rows:
        raise ApiError(
            400,
            f"{len(prompts)} prompts with n = {count} were given; give 1 to {limits.max_rows} "
            "answers in all",
            "n",
        )
    if body.extensions.canvas and not body.stream:
        raise ApiError(400, "canvas needs stream; give both", "unmask.canvas")
    name = body.extensions.policy or catalog.default
    policy = find_policy(catalog, name)
    options = with_trained_blocks(served.model, policy, merge_options(served, body))
    alpha = find_alpha(policy, body)
    allowed = allowed_ids(served.model, body.extensions.allowed)
    requests, total = [], 0
    for prompt in prompts:
        ids, holes = encode_row(served.model, prompt, suffix, options, limits)
        total += len(ids) - len(holes or ())
        for key in row_keys([ids] * count, options.seed):
            request = Request(tuple(ids), policy, options, key, alpha, holes, allowed)
            if request.size > limits.max_row_tokens:
                raise too_long(limits)
            check_request(served.model, request)
            check_limits(served.model, request)
            requests.append(request)
    return Plan(served, requests, name, total)


def merge_options(served: ServedModel, body: Body) -> DecodeOptions:
    """The server's options with what a body says; a default block length fits itself to the
    body's length. Where neither gives a length, choices are as long as the longest of them, as in
    `generate`."""
    given, own = body.settings(), served.options
    length = given.get("max_new_tokens")
    if length is None and own.max_new_tokens is None:
        chosen = decode_options(own, given)
        length = usual_length(served.model, chosen)
        if chosen.choices:
            return chosen.with_length(length)
    elif not isinstance(length, int) or length < 1:
        length = served.length
    return decode_options(own.with_length(length), given)


def encode_row(
    model: Model, prompt: Prompt, suffix: str | None, options: DecodeOptions, limits: Limits
) -> tuple[list[int], tuple[int, ...] | None]:
    """Token ids of a prompt; with a suffix, L masks and the suffix behind it, and where the masks
    are.

    Raises:
        ApiError: if that is too long.
        UnmaskError: if the prompt cannot be read.
    """
    length = options.max_new_tokens or 0
    if length > limits.max_row_tokens:
        raise too_long(limits)
    ids, behind = (encode_prompt(model, text, infill=True) for text in (prompt, suffix or ""))
    if model.mask_id in (*ids, *behind):
        raise ApiError(
            400,
            f"a text holds the mask token {mask_text(model)}; leave it out: the answer is written "
            "behind the prompt, or before the suffix of a text completion",
            "suffix" if model.mask_id in behind else "prompt" if isinstance(prompt, str) else None,
        )
    if not suffix:
        return ids, None
    holes = tuple(range(len(ids), len(ids) + length))
    return [*ids, *[model.mask_id] * length, *behind], holes


def too_long(limits: Limits) -> ApiError:
    """The refusal of a row that is too long."""
    return ApiError(
        400,
        f"a prompt and its answer are longer than the {limits.max_row_tokens} tokens that this "
        "server takes; shorten one of them",
        "max_tokens",
        "context_length_exceeded",
    )


def describe_model(catalog: Catalog, served: ServedModel) -> dict[str, Any]:
    """One entry of /v1/models."""
    described = [
        describe_policy(name, policy)
        for name, policy in catalog.policies.items()
        if suits(served.model, policy)
    ]
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "unmask",
        "unmask": {
            "model": str(served.model.name),
            "max_tokens": served.length,
            "block_length": served.model.attention_block or served.options.block_length,
            "default_policy": catalog.default,
            "policies": described,
            "heuristics": list(HEURISTICS),
        },
    }


def describe_policy(name: str, policy: Policy) -> dict[str, Any]:
    """What a client needs to know of a policy: whether it is learned, for which model and block
    length, and with which α it was calibrated, with the NFE of each."""
    found: dict[str, Any] = {"name": name, "learned": isinstance(policy, LearnedPolicy)}
    if isinstance(policy, LearnedPolicy):
        trained = policy.metadata.get("trained") or {}
        found["model"] = str(trained.get("model", ""))
        found["block_length"] = policy.block_length
        if policy.network.config.conditioned:
            found["alpha"] = policy.alpha
            pairs = sorted(policy.calibration)
            found["alphas"] = [round(alpha, 6) for alpha, _ in pairs]
            found["nfe"] = [nfe for _, nfe in pairs]
    return found


def suits(model: Model, policy: Policy) -> bool:
    """Whether a policy can decide for a model, once it is told its α."""
    options = DecodeOptions(max_new_tokens=1)
    try:
        check_policy(model, Request((0,), policy, options, alpha=1.0))
    except UnmaskError:
        return False
    return True
