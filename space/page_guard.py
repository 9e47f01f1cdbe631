"""What the server refuses: uploads, what Gradio offers and the page does not use, private functions called from
elsewhere, and calls of the open ones without their inputs."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

MAX_BODY_BYTES = 64 * 1024
# what the page and its named endpoints post to
_CALL = re.compile(r"/gradio_api/(?:run|api|call|(?P<named>call/v2))/(?P<name>[^/]+)/?")
_JOIN = re.compile(r"/gradio_api/queue/join/?")
_FREE = re.compile(r"/gradio_api/(?:cancel|reset)/?")
# reading is free but for these: files of others, states written to the disk, figures about visitors
_UNREADABLE = re.compile(r"/(?:gradio_api/)?(?:proxy=|deep_link|monitoring|dev/|run|vibe|profiling|custom_component)")

_PRIVATE = (403, "This function belongs to the page; use a named endpoint.")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class PageGuard:
    """ASGI middleware.

    Args:
        app: what is guarded.
        open_functions: gives the functions that anybody may call, once the page is made, as :func:`open_functions`.
    """

    def __init__(
        self, app: Callable[..., Awaitable[None]], open_functions: Callable[[], Mapping[int | str, Sequence[str]]]
    ):
        self.app = app
        self.open_functions = open_functions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        if method in ("GET", "HEAD"):
            if _UNREADABLE.match(path):
                await _refuse(send, 404, "Not offered here.")
                return
            await self.app(scope, receive, send)
            return
        if method != "POST" or not (_CALL.fullmatch(path) or _JOIN.fullmatch(path) or _FREE.fullmatch(path)):
            await _refuse(send, 403, "Nothing can be uploaded or changed here.")
            return
        body = await _read(receive)
        if body is None:
            await _refuse(send, 413, "The request is too large.")
            return
        is_free = _FREE.fullmatch(path) or _is_from_page(scope)
        if not is_free and (refusal := self._refusal(path, body)) is not None:
            await _refuse(send, *refusal)
            return
        await self.app(scope, _replay(body, receive), send)

    def _refusal(self, path: str, body: bytes) -> tuple[int, str] | None:
        """Status and text for a call of what is not open, or one without its values, on which Gradio would fail."""
        try:
            values = json.loads(body)
        except (ValueError, RecursionError):
            return _PRIVATE
        number = values.get("fn_index") if isinstance(values, dict) else None
        called = _CALL.fullmatch(path)
        # Gradio takes the number where there is one, else the name
        wanted = number if number is not None or called is None else called["name"]
        offered = self.open_functions()
        if not isinstance(wanted, (int, str)) or isinstance(wanted, bool) or wanted not in offered:
            return _PRIVATE
        inputs = offered[wanted]
        if called is not None and called["named"]:
            is_whole = isinstance(values, dict) and set(values) <= set(inputs)
        else:
            data = values.get("data") if isinstance(values, dict) else None
            is_whole = isinstance(data, list) and len(data) == len(inputs)
        return None if is_whole else (422, f"The inputs are {', '.join(inputs)}.")


def open_functions(functions: Mapping[int, Any]) -> dict[int | str, tuple[str, ...]]:
    """The labels of the inputs of those of a page's functions that are shown to clients, by number and by name."""
    shown = [function for function in functions.values() if function.api_visibility != "private"]
    inputs = {function._id: tuple(str(item.label) for item in function.inputs) for function in shown}
    return inputs | {str(function.api_name): inputs[function._id] for function in shown}


def _is_from_page(scope: Scope) -> bool:
    """Whether a browser says that its page came from here; a program can say so as well, but no other page can."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    if "sec-fetch-site" in headers:
        return headers["sec-fetch-site"] == "same-origin"
    hosts = {headers.get("host"), headers.get("x-forwarded-host")} - {None, ""}
    return headers.get("origin", "").partition("://")[2] in hosts


async def _read(receive: Receive) -> bytes | None:
    parts, size = [], 0
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": text}).encode()})
