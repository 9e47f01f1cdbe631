"""A loopback Hub for the installed huggingface_hub, datasets and diffusers, on starlette and uvicorn.

``LoopbackHub`` starts on a free port of 127.0.0.1 in a thread and keeps its state in memory and a folder; tests look
into ``repositories``, put faults into ``faults.add(…)`` and hand ``environment(home, token)`` to the processes they
start. What it answers is in :mod:`hub_endpoints`.
"""

import socket
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn
from starlette.requests import Request

from support.hub_endpoints import Endpoints
from support.hub_faults import Faults
from support.hub_rights import Account
from support.hub_xet import HttpStore, LocalStore

WRITE_TOKEN, READ_TOKEN = "hf_loopbackwritetokenAAAAAAAAAAAAAAAAA", "hf_loopbackreadtokenBBBBBBBBBBBBBBBBBBB"


class LoopbackHub:
    """The server. Use as a context manager.

    Args:
        folder: where contents are kept.
        cas: folder of Xet's content store; None serves no Xet.
        xet_over_http: serve the store; otherwise the client itself reads and writes the folder.
        page_size: entries on a page of a listing.
    """

    def __init__(self, folder: Path, *, cas: Path | None = None, xet_over_http: bool = False, page_size: int = 1000):
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        port = self._socket.getsockname()[1]
        self.cas, self.endpoint = cas, f"http://127.0.0.1:{port}"
        xet = None
        if cas is not None:
            xet = HttpStore(cas, self.endpoint) if xet_over_http else LocalStore(cas)
        accounts = {
            WRITE_TOKEN: Account("tester", "write", ("tester", "org")),
            READ_TOKEN: Account("reader", "read", ("reader", "org")),
        }
        # large files lie on another host, as on the Hub: clients send no token there
        self._endpoints = Endpoints(folder, self.endpoint, f"http://localhost:{port}", accounts, xet, page_size)
        self.repositories, self.granted = self._endpoints.repositories, self._endpoints.rights.granted
        self.faults = Faults(self._app)
        config = uvicorn.Config(self.faults, log_level="critical", proxy_headers=False, lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> "LoopbackHub":
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)
        self._socket.close()

    def environment(self, home: Path, token: str | None = WRITE_TOKEN) -> dict[str, str]:
        """Environment variables for a process that is to use this Hub with that token, and ``home`` for its caches."""
        values = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "0" if self.cas else "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        return values | ({"HF_TOKEN": token} if token else {})

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        response = self._endpoints.answer(request, scope["raw_path"].decode(), await request.body())
        await response(scope, receive, send)
