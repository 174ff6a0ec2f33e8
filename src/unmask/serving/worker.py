"""One engine on a thread of its own: rows join and leave between its steps."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal

from unmask.decoding.engine import Engine
from unmask.decoding.generation import Result, Step
from unmask.decoding.request import Request
from unmask.errors import UnmaskError
from unmask.models.base import Model
from unmask.serving.answers import Update
from unmask.serving.metrics import Metrics
from unmask.serving.protocol import ApiError

log = logging.getLogger("unmask.serve")

Watch = Literal["results", "newest", "steps"]


class Job:
    """The rows of one HTTP request, and what the worker says of them.

    It is made and read on the event loop; the worker writes through `loop.call_soon_threadsafe`.

    Args:
        requests: a row each.
        watch: whether the finished rows alone are wanted, the newest state of each row too, or
            every step.
        seconds: that the request may take, from now on.
    """

    def __init__(self, requests: Sequence[Request], watch: Watch, seconds: float) -> None:
        self.requests, self.watch, self.seconds = tuple(requests), watch, seconds
        self.loop = asyncio.get_running_loop()
        self.deadline = self.loop.time() + seconds
        self.inbox: list[Update | ApiError] = []
        self.filled = asyncio.Event()
        self.left = len(self.requests)  # rows without a result, as the reader has seen it
        self.tickets: dict[int, int] = {}  # of the rows in the engine, by row; the worker's own

    def put(self, said: Sequence[Update | ApiError]) -> None:
        """Takes in what the worker says. A row's newer update replaces the one that was not read
        yet, unless every step is wanted, so that a slow reader's inbox does not grow."""
        if self.watch != "steps":
            newer = {update.row for update in said if isinstance(update, Update)}
            self.inbox = [u for u in self.inbox if isinstance(u, ApiError) or u.row not in newer]
        self.inbox += said
        self.filled.set()

    async def updates(self) -> AsyncIterator[Update]:
        """What the worker says, until every row is done.

        Raises:
            ApiError: if the engine failed, a row could not be finished, or the seconds were over.
        """
        while self.left:
            try:
                async with asyncio.timeout_at(self.deadline):
                    await self.filled.wait()
            except TimeoutError:
                raise ApiError(
                    504,
                    f"the answer was not finished after {self.seconds:g} seconds; ask for fewer or "
                    "shorter answers, or try again later",
                    None,
                    "timeout",
                ) from None
            self.filled.clear()
            found, self.inbox = self.inbox, []
            for update in found:
                if isinstance(update, ApiError):
                    raise update
                if update.error:
                    raise ApiError(500, update.error, None, "model_failed")
                self.left -= update.steps is not None
                yield update


def put_all(found: Sequence[tuple[Job, Sequence[Update | ApiError]]]) -> None:
    """Puts what the worker says into the jobs' inboxes; runs on the event loop."""
    for job, said in found:
        job.put(said)


class Worker:
    """Runs an engine for jobs that come and go.

    `submit`, `drop` and `close` are called on the event loop; everything else runs on the thread.

    Args:
        model: the frozen model.
        name: how the metrics call it.
        slots: rows in flight.
        most: rows that may wait or be in flight; further ones are refused.
        metrics: of the server.
    """

    def __init__(self, model: Model, name: str, slots: int, most: int, metrics: Metrics) -> None:
        self.model, self.name, self.slots, self.most = model, name, slots, most
        self.metrics = metrics
        self.engine = Engine(model, slots)
        self.owner: dict[int, tuple[Job, int]] = {}  # by ticket: the job and the row in it
        self.passes: dict[int, int] = {}  # by ticket
        self.changed = threading.Condition()
        self.arrived: list[Job] = []
        self.dropped: list[Job] = []
        self.closing = False
        metrics.rows.labels(name).set_function(lambda: len(self.engine.schedule.active))
        metrics.queue.labels(name).set_function(self.count_waiting)
        self.thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)
        self.thread.start()

    def count_waiting(self) -> int:
        """Rows that have no slot yet."""
        with self.changed:
            arrived = sum(len(job.requests) for job in self.arrived)
        return arrived + len(self.engine.schedule.waiting)

    def submit(self, job: Job) -> None:
        """Takes a job in; its rows join before the next step.

        Raises:
            ApiError: if too much is waiting, the job is more than may wait, or the worker is
                closed.
        """
        if len(job.requests) > self.most:
            raise ApiError(
                400,
                f"{len(job.requests)} answers were asked for at once, and this server takes "
                f"{self.most}; ask for fewer in one request",
                "n",
            )
        with self.changed:
            if self.closing or not self.thread.is_alive():
                raise ApiError(503, "the server is stopping; try another one", None, "stopping")
            taken = len(self.owner) + sum(len(other.requests) for other in self.arrived)
            if taken + len(job.requests) > self.most:
                raise ApiError(
                    429,
                    f"{taken} answers wait or are being written, and this server takes "
                    f"{self.most}; try again later",
                    None,
                    "queue_full",
                )
            self.arrived.append(job)
            self.changed.notify()

    def drop(self, job: Job) -> None:
        """Gives up what is left of a job; its slots are free at the next step."""
        with self.changed:
            if job in self.arrived:
                self.arrived.remove(job)
                self.metrics.cancelled.labels(self.name).inc(len(job.requests))
                return
            self.dropped.append(job)
            self.changed.notify()

    def close(self) -> None:
        """Finishes what is there and ends the thread."""
        with self.changed:
            self.closing = True
            self.changed.notify()
        self.thread.join()

    def _run(self) -> None:
        while True:
            with self.changed:
                while not (self.arrived or self.dropped or self.closing or not self.engine.idle):
                    self.changed.wait()
                if self.closing and self.engine.idle and not self.arrived:
                    return
                arrived, self.arrived = self.arrived, []
                # The rows count as the engine's before the lock is released, so that the limit
                # holds at every moment.
                for job in arrived:
                    self._enter(job)
                dropped, self.dropped = self.dropped, []
            for job in dropped:
                self._cancel(job)
            try:
                self._step()
            except Exception:
                log.exception("the engine of %s failed; its rows are given up", self.name)
                self._fail()

    def _enter(self, job: Job) -> None:
        """Puts a job's rows into the engine. Whoever made them has checked them, so that what the
        engine refuses is for want of memory; beside other rows that may change."""
        try:
            for row, request in enumerate(job.requests):
                ticket = self.engine.submit(request)
                job.tickets[row] = ticket
                self.owner[ticket], self.passes[ticket] = (job, row), 0
        except UnmaskError as error:
            self._cancel(job)
            refusal = ApiError(400, str(error), None, "no_memory")
            if self.owner:
                refusal = ApiError(
                    503,
                    "there is no memory for this request beside those that are being answered; try "
                    "again later, or ask for fewer or shorter answers",
                    None,
                    "no_memory",
                )
            self._tell({job: [refusal]})

    def _cancel(self, job: Job) -> None:
        """Takes what is left of a job out of the engine."""
        self.metrics.cancelled.labels(self.name).inc(len(job.tickets))
        for ticket in job.tickets.values():
            self.engine.cancel(ticket)
            del self.owner[ticket], self.passes[ticket]
        job.tickets.clear()

    def _fail(self) -> None:
        """After an error that is the engine's own: every job is told, and a new engine begins."""
        jobs = {job for job, _ in self.owner.values()}
        self.engine = Engine(self.model, self.slots)
        self.owner.clear()
        self.passes.clear()
        error = ApiError(500, "the engine failed; the server's log says why", None, "engine_failed")
        for job in jobs:
            job.tickets.clear()
        self._tell({job: [error] for job in jobs})

    def _tell(self, found: Mapping[Job, Sequence[Update | ApiError]]) -> None:
        """Wakes whoever reads the jobs: each event loop once, whatever the number of jobs."""
        for loop in {job.loop for job in found}:
            own = [(job, said) for job, said in found.items() if job.loop is loop]
            loop.call_soon_threadsafe(put_all, own)

    def _step(self) -> None:
        """One step, and what it did told to those who wait for it."""
        began = time.perf_counter()
        step = self.engine.step()
        if step is None:
            return
        self.metrics.seconds.labels(self.name).observe(time.perf_counter() - began)
        self.metrics.passes.labels(self.name).inc(len(step.rows))
        found: dict[Job, list[Update]] = {}
        for job, update in [*self._watched(step), *map(self._result, step.results)]:
            found.setdefault(job, []).append(update)
        self._tell(found)

    def _watched(self, step: Step) -> list[tuple[Job, Update]]:
        """The updates of rows whose steps are wanted."""
        if not any(job.watch != "results" for job, _ in self.owner.values()):
            return []
        tickets = step.rows.tolist()
        places = [i for i, t in enumerate(tickets) if self.owner[t][0].watch != "results"]
        tokens, fresh, confidence = (
            part[places].tolist() for part in (step.tokens, step.fresh, step.confidence)
        )
        updates = []
        for i, place in enumerate(places):
            ticket = tickets[place]
            job, row = self.owner[ticket]
            length = job.requests[row].length
            revealed = [p for p, new in enumerate(fresh[i][:length]) if new]
            sure = [confidence[i][p] for p in revealed]
            number = self.passes[ticket]
            self.passes[ticket] = number + 1
            updates.append((job, Update(row, number, tokens[i][:length], revealed, sure)))
        return updates

    def _result(self, result: Result) -> tuple[Job, Update]:
        """The last update of a row that is done; the row is forgotten."""
        job, row = self.owner.pop(result.ticket)
        del self.passes[result.ticket], job.tickets[row]
        self.metrics.finished.labels(self.name).inc()
        tokens, steps = result.tokens.tolist(), result.reveal_step.tolist()
        last = result.nfe - 1
        update = Update(row, last, tokens, steps=steps, nfe=result.nfe, error=result.error)
        return job, update
