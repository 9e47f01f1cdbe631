"""Faults on demand in front of the loopback Hub: error answers, slow answers, and connections that break."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

# whether the request is refused before it is handled, or the answer is lost after it was
BEFORE, AFTER = "before", "after"


@dataclass
class Fault:
    """What goes wrong with the next ``count`` requests whose method and path match, after ``skip`` of them went well.

    Attributes:
        method: pattern of the method.
        path: pattern searched in the raw path.
        status: the error answered instead; None lets the request through (after ``delay``).
        retry_after: value of the ``Retry-After`` header in seconds.
        cut: break the connection: ``before`` in the middle of the request's body, ``after`` with the work done.
        delay: seconds to wait first.
        together: hold the requests until so many are there.
        call: called with the path when the fault strikes; it may kill the client.
        client_port: of the connection that it has struck last.
    """

    path: str = ""
    method: str = ".*"
    status: int | None = None
    count: int = 1
    skip: int = 0
    retry_after: float | None = None
    cut: str | None = None
    delay: float = 0.0
    together: int = 1
    call: Callable[[str], None] | None = None
    struck: int = field(default=0, init=False)
    client_port: int = field(default=0, init=False)

    def matches(self, method: str, path: str) -> bool:
        return bool(re.fullmatch(self.method, method)) and bool(re.search(self.path, path))


class Faults:
    """ASGI middleware that plays the faults in its list; ``requests`` records every request as (method, path)."""

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self.app = app
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []

    def add(self, path: str = "", **settings: Any) -> Fault:
        fault = Fault(path, **settings)
        self.faults.append(fault)
        return fault

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["raw_path"].decode()
        self.requests.append((scope["method"], path))
        fault = self._next(scope["method"], path)
        if fault is None:
            return await self.app(scope, receive, send)
        fault.client_port = scope["client"][1]
        if fault.delay:
            await asyncio.sleep(fault.delay)
        while fault.struck < fault.together:
            await asyncio.sleep(0.01)
        # uvicorn hands over a bound method of the cycle that holds the connection
        transport = send.__self__.transport
        if fault.cut == AFTER:

            async def lose(message: Any) -> None:
                pass

            await self.app(scope, receive, lose)
        elif fault.cut == BEFORE:
            await receive()
        if fault.call is not None:
            fault.call(path)
        if fault.cut is not None:
            transport.abort()
            return None
        if fault.status is None:
            return await self.app(scope, receive, send)
        headers = [(b"content-type", b"application/json")]
        if fault.retry_after is not None:
            headers.append((b"retry-after", str(fault.retry_after).encode()))
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": fault.status, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"error": "a fault on demand"}'})
        return None

    def _next(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.matches(method, path):
                if fault.skip > 0:
                    fault.skip -= 1
                elif fault.struck < fault.count:
                    fault.struck += 1
                    return fault
        return None
