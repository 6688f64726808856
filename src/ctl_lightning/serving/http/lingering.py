"""Has a refusal reach a client that is still sending: a connection that is closed with something unread is reset, answer and all."""

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = 5.0
"""Longest time in which the rest of a request that was refused is read and thrown away."""


class Lingering:
    """Middleware that, after a refusal, reads what the client still sends, before it lets the connection be closed.

    Args:
        app: app that it surrounds.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, as ASGI has it."""
        if scope["type"] != "http" or scope["method"] != "POST" or b"expect" in dict(scope["headers"]):
            return await self._app(
                scope, receive, send
            )  # who expects to be asked for the body does not send it unasked
        whole, refused = False, False

        async def received() -> Message:
            nonlocal whole
            message = await receive()
            whole = whole or not message.get("more_body", False)
            return message

        async def sent(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start":
                refused = message["status"] >= 400
            elif refused and not whole and not message.get("more_body", False):
                await send({**message, "more_body": True})
                with suppress(TimeoutError):
                    async with asyncio.timeout(SECONDS):
                        while not whole:
                            await received()
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self._app(scope, received, sent)
