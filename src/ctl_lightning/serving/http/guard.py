"""What surrounds every request: it is counted and timed, an error of ours becomes one line, and connections are closed that are of no more use."""

import asyncio
import logging
import time
import uuid
from collections.abc import Collection

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctl_lightning.serving.http.service import Service

log = logging.getLogger(__name__)

GONE = 499
"""Status under which a request is counted whose client went away."""


class Guard:
    """Middleware around a service's app.

    Args:
        app: app that it surrounds.
        service: service that the app belongs to.
        routes: templates of the paths that are counted by themselves; others are counted together.
        root_path: path below which a proxy offers the app; "": it offers it as it is.
    """

    def __init__(self, app: ASGIApp, service: Service, routes: Collection[str], root_path: str) -> None:
        self._app = app
        self._service = service
        self._routes = frozenset(routes)
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, as ASGI has it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        scope["root_path"] = scope.get("root_path", "") or self._root_path
        if scope["method"] == "HEAD":  # whoever called leaves the body out
            scope = {**scope, "method": "GET"}
        began, status, took = time.perf_counter(), GONE, 0.0
        unread = _has_body(scope)

        async def received() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and message.get("more_body", False)
            return message

        async def watched(message: Message) -> None:
            nonlocal status, took
            took = time.perf_counter() - began
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._service.closing or unread:  # nobody reads a body whose answer is given
                    message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await send(message)

        try:
            await self._app(scope, received, watched)
        except ClientDisconnect:
            status = GONE
        except asyncio.CancelledError:  # the time that the end may take is over
            if status == GONE:
                await JSONResponse({"error": "the service ends"}, 503)(scope, receive, watched)
        except Exception:
            number = uuid.uuid4().hex[:12]
            log.exception("error %s", number)
            if status != GONE:  # the answer has begun, and can only be cut
                raise
            problem = {"error": "an error of the service; its log has the id", "id": number}
            await JSONResponse(problem, 500)(scope, receive, watched)
        finally:
            path = getattr(scope.get("route"), "path", "")
            route = path if path in self._routes else "other"
            self._service.metrics.requests.labels(route, str(status)).inc()
            self._service.metrics.seconds.labels(route).observe(took or time.perf_counter() - began)


def _has_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
