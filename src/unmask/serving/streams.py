"""From rows to the JSON of an answer, whole or as a stream of server-sent events."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from unmask.serving.answers import (
    Answer,
    canvas_event,
    count_settled,
    finished_answer,
    settled_text,
)
from unmask.serving.catalog import Catalog, Plan
from unmask.serving.protocol import ApiError
from unmask.serving.worker import Job

log = logging.getLogger("unmask.serve")

Kind = Literal["chat", "text"]
OBJECTS = {"chat": "chat.completion", "text": "text_completion"}
PREFIXES = {"chat": "chatcmpl-", "text": "cmpl-"}


@dataclass(frozen=True)
class Heading:
    """What all parts of one answer begin with.

    Attributes:
        kind: of the route.
        plan: what was asked.
        id: of the answer.
        created: in seconds since 1970.
    """

    kind: Kind
    plan: Plan
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", PREFIXES[self.kind] + uuid.uuid4().hex)

    def whole(self) -> dict[str, Any]:
        """The fields of a whole answer."""
        return self._fields(OBJECTS[self.kind])

    def chunk(self, choices: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """One part of a streamed answer."""
        name = "chat.completion.chunk" if self.kind == "chat" else OBJECTS["text"]
        return self._fields(name) | {"choices": list(choices)} | more

    def _fields(self, name: str) -> dict[str, Any]:
        model = self.plan.served.name
        return {"id": self.id, "object": name, "created": self.created, "model": model}


def count_usage(plan: Plan, answers: Sequence[Answer]) -> dict[str, int]:
    """OpenAI's token counts; each prompt counts once, whatever n is."""
    completion = sum(answer.tokens for answer in answers)
    total = plan.prompt_tokens + completion
    return {
        "prompt_tokens": plan.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": total,
    }


def count_passes(answers: Sequence[Answer]) -> dict[str, Any]:
    """NFE of some answers together, and their tokens for each."""
    nfe = sum(answer.nfe for answer in answers)
    tokens = sum(answer.tokens for answer in answers)
    return {"nfe": nfe, "tokens_per_pass": round(tokens / max(nfe, 1), 4)}


def answer_cost(plan: Plan, answers: Sequence[Answer]) -> dict[str, Any]:
    """What this server adds to a whole answer."""
    return count_passes(answers) | {"policy": plan.policy, "alpha": plan.alpha}


async def whole_answer(kind: Kind, catalog: Catalog, plan: Plan, job: Job) -> dict[str, Any]:
    """The JSON of an answer that is not streamed.

    Raises:
        ApiError: if it could not be finished.
    """
    heading, model = Heading(kind, plan), plan.served.model
    found: dict[int, Answer] = {}
    async for update in job.updates():
        found[update.row] = finished_answer(model, job.requests[update.row], update)
    answers = [found[row] for row in range(len(job.requests))]
    count_tokens(catalog, plan, answers)
    choices = [whole_choice(kind, row, answer) for row, answer in enumerate(answers)]
    return heading.whole() | {
        "choices": choices,
        "usage": count_usage(plan, answers),
        "unmask": answer_cost(plan, answers),
    }


def count_tokens(catalog: Catalog, plan: Plan, answers: Sequence[Answer]) -> None:
    """Adds the answers' tokens to the metrics."""
    count = sum(answer.tokens for answer in answers)
    catalog.metrics.tokens.labels(plan.served.name).inc(count)


def whole_choice(kind: Kind, row: int, answer: Answer) -> dict[str, Any]:
    """One choice of an answer that is not streamed."""
    said: dict[str, Any] = {"text": answer.text}
    if kind == "chat":
        said = {"message": {"role": "assistant", "content": answer.text, "refusal": None}}
    end = {"logprobs": None, "finish_reason": answer.finish_reason}
    return {"index": row} | said | end | {"unmask": count_passes([answer])}


def choice_part(
    kind: Kind, row: int, text: str | None, end: Answer | None = None, role: bool = False
) -> dict[str, Any]:
    """One choice of a part of a streamed answer."""
    said: dict[str, Any] = {"text": text or ""}
    if kind == "chat":
        delta = {"role": "assistant"} if role else {}
        said = {"delta": delta if text is None else delta | {"content": text}}
    reason = None if end is None else end.finish_reason
    part = {"index": row} | said | {"logprobs": None, "finish_reason": reason}
    return part if end is None else part | {"unmask": count_passes([end])}


async def stream_parts(
    kind: Kind, catalog: Catalog, plan: Plan, job: Job, *, canvas: bool, usage: bool
) -> AsyncIterator[dict[str, Any]]:
    """The parts of a streamed answer: text that can no longer change, and on request the canvas
    after every pass.

    Args:
        kind: of the route.
        catalog: what is served.
        plan: what was asked.
        job: its rows.
        canvas: whether the canvases are sent.
        usage: whether a last part has the token counts.

    Raises:
        ApiError: if an answer could not be finished.
    """
    heading, model = Heading(kind, plan), plan.served.model
    more = {"usage": None} if usage else {}
    rows = range(len(job.requests))
    sent, settled, answers = [""] * len(rows), [0] * len(rows), {}
    if kind == "chat":
        for row in rows:
            yield heading.chunk([choice_part(kind, row, "", role=True)], **more)
    async for update in job.updates():
        row, request = update.row, job.requests[update.row]
        if update.steps is None:
            new, count = "", count_settled(model, update.tokens)
            if count > settled[row]:
                settled[row] = count
                text = settled_text(model, request, update.tokens)
                new = text[len(sent[row]) :] if text.startswith(sent[row]) else ""
            sent[row] += new
            shown = {"unmask": {"canvas": canvas_event(model, row, update)}} if canvas else {}
            if new or canvas:
                yield heading.chunk([choice_part(kind, row, new)] if new else [], **more, **shown)
            continue
        answers[row] = answer = finished_answer(model, request, update)
        rest = answer.text[len(sent[row]) :]
        if rest:
            yield heading.chunk([choice_part(kind, row, rest)], **more)
        yield heading.chunk([choice_part(kind, row, None, answer)], **more)
    finished = [answers[row] for row in rows]
    count_tokens(catalog, plan, finished)
    if usage:
        cost = {"unmask": answer_cost(plan, finished)}
        yield heading.chunk([], usage=count_usage(plan, finished), **cost)


def encode_event(data: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


async def encode_events(parts: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """The events of a stream; an error is the last one, else `[DONE]` is."""
    try:
        async for part in parts:
            yield encode_event(part)
    except ApiError as error:
        yield encode_event(error.body())
        return
    yield b"data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """A stream of events for a job, which is given up when the client leaves, or has not read by
    the job's deadline."""

    def __init__(self, events: AsyncIterator[bytes], plan: Plan, job: Job) -> None:
        super().__init__(
            events,
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
        self.plan, self.job = plan, job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self.job.left:
                self.plan.served.worker.drop(self.job)

    async def stream_response(self, send: Send) -> None:
        """Sends the events. After the deadline only what need not wait for the client is sent, such
        as the error that says so; then the server closes the connection."""

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout_at(self.job.deadline):
                await send(message)

        try:
            await super().stream_response(send_in_time)
        except TimeoutError:
            log.warning("a client did not read its stream in %g s; it is cut off", self.job.seconds)
