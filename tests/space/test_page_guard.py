"""What the server refuses, without a server: uploads, and private functions called from elsewhere than the page."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from page_guard import MAX_BODY_BYTES, PageGuard, open_functions

INPUTS = [SimpleNamespace(label="class_name"), SimpleNamespace(label="seed")]
FUNCTIONS = {
    0: SimpleNamespace(_id=0, api_name="generate", api_visibility="private", inputs=INPUTS),
    1: SimpleNamespace(_id=1, api_name="draw", api_visibility="public", inputs=INPUTS),
}
BROWSER = {"sec-fetch-site": "same-origin"}


def status(method, path, body=b"", headers=None):
    """The answer's status; 200 where the app behind the guard was reached with the whole body."""

    async def app(scope, receive, send):
        got = b""
        while True:
            message = await receive()
            got += message["body"]
            if not message.get("more_body"):
                break
        assert got == body
        await send({"type": "http.response.start", "status": 200, "headers": []})

    content = [body[:7], body[7:]]

    async def receive():
        return {"type": "http.request", "body": content.pop(0), "more_body": bool(content)}

    sent = []

    async def send(message):
        sent.append(message)

    fields = [(name.encode(), value.encode()) for name, value in {"host": "a.org", **(headers or {})}.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": fields}
    asyncio.run(PageGuard(app, lambda: open_functions(FUNCTIONS))(scope, receive, send))
    return sent[0]["status"]


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/upload", "/upload", "/gradio_api/component_server", "/gradio_api/vibe-edit", "/gradio_api/stream/1"],
)
def test_nothing_is_uploaded_even_by_the_page(path):
    assert status("POST", path, b"x" * 900, BROWSER) == 403
    assert status("PUT", "/gradio_api/queue/join", b"", BROWSER) == 403


def test_tools_that_the_page_does_not_use_are_not_there():
    for path in ("/gradio_api/proxy=http://x", "/gradio_api/deep_link", "/monitoring/summary", "/gradio_api/runs"):
        assert status("GET", path) == 404
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/queue/data", "/assets/run.js"):
        assert status("GET", path) == 200


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/call/draw"])
def test_private_functions_are_for_the_page(path):
    def call(number, **headers):
        return status("POST", path, json.dumps({"fn_index": number, "data": ["star", 1]}).encode(), headers)

    assert call(1) == 200 and call(0) == call("0") == call(7) == call(True) == call([1]) == 403
    assert call(0, **BROWSER) == 200 and call(0, origin="https://a.org") == 200
    assert call(0, **{"sec-fetch-site": "cross-site"}) == 403 and call(0, origin="https://evil.org") == 403
    assert call(0, **{"origin": "https://b.org", "x-forwarded-host": "b.org"}) == 200


def test_names_count_where_there_is_no_number():
    assert status("POST", "/gradio_api/call/draw", b'{"data": ["star", 1]}') == 200
    assert status("POST", "/gradio_api/call/generate", b'{"data": ["star", 1]}') == 403
    assert status("POST", "/gradio_api/call/draw", b'{"fn_index": 0, "data": ["star", 1]}') == 403
    for body in (b"", b"[", b"[" * 20_000, b"3"):
        assert status("POST", "/gradio_api/queue/join", body) == 403
    assert status("POST", "/gradio_api/queue/join", b"x" * (MAX_BODY_BYTES + 1), BROWSER) == 413


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/call/draw"])
def test_a_call_without_its_inputs_is_told_them(path):
    for data in ([], ["star"], ["star", 1, 2], None, {"class_name": "star"}):
        assert status("POST", path, json.dumps({"fn_index": 1, "data": data}).encode()) == 422
    assert status("POST", path, b'{"fn_index": 1}') == 422
    assert PageGuard(None, lambda: open_functions(FUNCTIONS))._refusal(path, b'{"fn_index": 1, "data": []}') == (
        422,
        "The inputs are class_name, seed.",
    )


def test_inputs_by_name_are_those_that_there_are():
    path = "/gradio_api/call/v2/draw"
    for values in ({}, {"seed": 1}, {"class_name": "star", "seed": 1}):
        assert status("POST", path, json.dumps(values).encode()) == 200
    for values in ({"class": "star"}, {"data": []}, {"class_name": "star", "fn_index": 1}, []):
        assert status("POST", path, json.dumps(values).encode()) == 422
    assert status("POST", path, b'{"fn_index": 0}') == 403
