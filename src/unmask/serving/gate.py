"""What every request passes first: the API key, the limit of the body's size and time, and the
count of answers."""

from __future__ import annotations

import asyncio
import hmac

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unmask.serving.limits import Limits
from unmask.serving.metrics import Metrics
from unmask.serving.protocol import ApiError

# What a browser loads before its user can give the key, and what a load balancer asks.
OPEN_PATHS = ("/", "/health", "/openapi.json")
COUNTED = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics")
BODY_SECONDS = 30.0


class Gate:
    """ASGI middleware.

    Args:
        app: what is behind it.
        limits: of the body's size.
        metrics: counts answers.
        key: what clients must send as `Authorization: Bearer KEY`; None asks for none.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, key: str | None) -> None:
        self.app, self.limits, self.metrics, self.key = app, limits, metrics, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in COUNTED else "other"
        begun = False

        async def count(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self.metrics.requests.labels(route, str(message["status"])).inc()
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            try:
                await self.app(scope, BodyReader(receive, self.limits.max_body_bytes), count)
            except Exception:
                if not begun:  # Starlette answers with status 500, outside of this middleware
                    self.metrics.requests.labels(route, "500").inc()
                raise
            return
        response = JSONResponse(refusal.body(), refusal.status, headers={"Connection": "close"})
        await response(scope, receive, count)

    def _refusal(self, scope: Scope) -> ApiError | None:
        """Why a request is not let in; None if it is."""
        headers = Headers(scope=scope)
        size = headers.get("content-length", "0")
        if size.isdecimal() and int(size[:18]) > self.limits.max_body_bytes:
            return too_large(self.limits.max_body_bytes)
        path = scope["path"]
        if self.key is None or path in OPEN_PATHS or path.startswith("/playground/static/"):
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(), self.key.encode())
        if kind.lower() == "bearer" and right:
            return None
        message = "the API key is missing or wrong; send it as Authorization: Bearer KEY"
        return ApiError(401, message, None, "invalid_api_key")


class BodyReader:
    """Passes a body on, as long as it is not too large and comes in time."""

    def __init__(self, receive: Receive, most: int) -> None:
        self.receive, self.most, self.size, self.whole = receive, most, 0, False

    async def __call__(self) -> Message:
        if self.whole:  # from here on only a disconnect can come, at any time
            return await self.receive()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                message = await self.receive()
        except TimeoutError:
            raise HTTPException(408, "the body did not come in time; send it again") from None
        self.size += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        if self.size > self.most:
            error = too_large(self.most)
            raise HTTPException(error.status, error.message)
        return message


def too_large(most: int) -> ApiError:
    """The refusal of a large body."""
    message = f"the body has more than {most} bytes; send less"
    return ApiError(413, message, None, "body_too_large")
