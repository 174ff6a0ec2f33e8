"""The routes of the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import Field
from starlette.exceptions import HTTPException

from unmask.errors import UnmaskError
from unmask.extras import installed_version
from unmask.serving.catalog import Catalog, Plan, describe_model, find_model, plan_chat, plan_text
from unmask.serving.examples import judge_answer, list_examples
from unmask.serving.gate import Gate
from unmask.serving.protocol import (
    ApiError,
    Body,
    ChatAnswer,
    ChatBody,
    CompletionBody,
    ErrorAnswer,
    TextAnswer,
    WholeBody,
    explain_invalid,
)
from unmask.serving.streams import EventStream, Kind, encode_events, stream_parts, whole_answer
from unmask.serving.worker import Job

log = logging.getLogger("unmask.serve")
# Fields under `unmask` that errors of the decoder begin with.
EXTENSIONS = ("block_length", "top_k", "cfg_scale", "eos", "choices", "allowed")

PAGE = Path(__file__).parent / "playground"
# The page takes everything from this server, so that it works offline.
POLICY = "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'"
STATIC = {"app.js": "text/javascript", "style.css": "text/css", "icon.svg": "image/svg+xml"}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 401, 404, 408, 413, 429, 500, 503, 504)
}
STREAMED: dict[str, Any] = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}


def build_app(catalog: Catalog, *, key: str | None = None, cors: Sequence[str] = ()) -> FastAPI:
    """The server's ASGI application.

    Args:
        catalog: what is served; it is closed when the application shuts down.
        key: the API key that clients must send; None asks for none.
        cors: origins of other pages that browsers may call this server from.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(catalog.close)

    app = FastAPI(
        title="unmask",
        version=installed_version("unmask"),
        docs_url=None,  # the documentation pages of FastAPI load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    add_error_handlers(app)
    add_models(app, catalog)
    add_completions(app, catalog)
    add_health(app, catalog)
    add_playground(app, catalog)
    name_models(app, catalog)
    app.add_middleware(Gate, limits=catalog.limits, metrics=catalog.metrics, key=key)
    if cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # clients of OpenAI send some of their own
        )
    return app


def name_models(app: FastAPI, catalog: Catalog) -> None:
    """Lets the OpenAPI description name the models that are served."""
    schemas = app.openapi()["components"]["schemas"]  # FastAPI keeps and serves this description
    for body in ("ChatBody", "CompletionBody"):
        schemas[body]["properties"]["model"]["enum"] = list(catalog.models)


def add_error_handlers(app: FastAPI) -> None:
    """Every error has OpenAI's shape."""

    def answer(error: ApiError) -> JSONResponse:
        headers = {"Retry-After": "1"} if error.status in (429, 503) else None
        return JSONResponse(error.body(), error.status, headers=headers)

    @app.exception_handler(ApiError)
    async def on_api_error(request: Request, error: ApiError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(UnmaskError)
    async def on_bad_input(request: Request, error: UnmaskError) -> JSONResponse:
        message = str(error).replace("max_new_tokens", "max_tokens")
        name = message.split(" ")[0]
        known = name in Body.model_fields or name in EXTENSIONS
        return answer(ApiError(400, message[:1000], name if known else None))

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(explain_invalid(error.errors()))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        response = answer(ApiError(error.status_code, str(error.detail)))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def on_failure(request: Request, error: Exception) -> JSONResponse:
        log.error("a request to %s failed", request.url.path, exc_info=error)
        return answer(ApiError(500, "the server failed; its log says why", None, "internal_error"))


def add_models(app: FastAPI, catalog: Catalog) -> None:
    """`/v1/models`."""

    @app.get("/v1/models", responses={401: ERRORS[401]})
    async def list_models() -> dict[str, Any]:
        models = [describe_model(catalog, served) for served in catalog.models.values()]
        return {"object": "list", "data": models}

    @app.get("/v1/models/{name:path}", responses={s: ERRORS[s] for s in (400, 401, 404)})
    async def show_model(name: str) -> dict[str, Any]:
        return describe_model(catalog, find_model(catalog, name))


def add_completions(app: FastAPI, catalog: Catalog) -> None:
    """`/v1/chat/completions` and `/v1/completions`."""

    @app.post(
        "/v1/chat/completions",
        response_model=ChatAnswer,
        responses={**ERRORS, 200: STREAMED},
    )
    async def complete_chat(body: ChatBody, request: Request) -> Response:
        return await answer_plan("chat", catalog, plan_chat(catalog, body), body, request)

    @app.post("/v1/completions", response_model=TextAnswer, responses={**ERRORS, 200: STREAMED})
    async def complete_text(body: CompletionBody, request: Request) -> Response:
        return await answer_plan("text", catalog, plan_text(catalog, body), body, request)


async def answer_plan(
    kind: Kind, catalog: Catalog, plan: Plan, body: Body, request: Request
) -> Response:
    """Runs a plan and answers, whole or as a stream."""
    usage = bool(body.stream_options and body.stream_options.include_usage)
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream; give both", "stream_options")
    canvas = body.extensions.canvas
    watch = "results" if not body.stream else "steps" if canvas else "newest"
    job = Job(plan.requests, watch, catalog.limits.timeout)
    worker = plan.served.worker
    worker.submit(job)
    if body.stream:
        parts = stream_parts(kind, catalog, plan, job, canvas=canvas, usage=usage)
        return EventStream(encode_events(parts), plan, job)
    try:
        return JSONResponse(await while_connected(request, whole_answer(kind, catalog, plan, job)))
    finally:
        if job.left:
            worker.drop(job)


async def while_connected(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """What `work` gives; it is given up as soon as the client leaves.

    Raises:
        ApiError: if the client left; nobody reads it.
    """

    async def wait_for_disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(wait_for_disconnect())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client left")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


def add_health(app: FastAPI, catalog: Catalog) -> None:
    """`/health` and `/metrics`."""

    @app.get("/health")
    async def health() -> Response:
        alive = all(served.worker.thread.is_alive() for served in catalog.models.values())
        return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    @app.get("/metrics", responses={401: ERRORS[401]})
    async def metrics() -> Response:
        media_type = "text/plain; version=0.0.4; charset=utf-8"
        return Response(catalog.metrics.text(), media_type=media_type)


class VerdictBody(WholeBody):
    """A question of the playground: is this answer right?"""

    model: str = Field(max_length=1000)
    prompt: str
    text: str


def add_playground(app: FastAPI, catalog: Catalog) -> None:
    """The page, and what it asks beside the API. None of this is part of the API."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        return FileResponse(PAGE / "index.html", media_type="text/html", headers=headers)

    @app.get("/playground/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in STATIC:
            raise HTTPException(404, "there is no such file")
        headers = {"Cache-Control": "no-cache"}
        return FileResponse(PAGE / name, media_type=STATIC[name], headers=headers)

    # Plain functions: FastAPI runs them on a thread, for a task may take a moment to load.
    @app.get("/playground/examples", include_in_schema=False)
    def examples(model: str) -> dict[str, Any]:
        served = find_model(catalog, model)
        found = list_examples(str(served.model.name))
        return {"examples": [example.prompt for example in found]}

    @app.post("/playground/verdict", include_in_schema=False)
    def verdict(body: VerdictBody) -> dict[str, Any]:
        served = find_model(catalog, body.model)
        return {"correct": judge_answer(served.model, body.prompt, body.text)}
