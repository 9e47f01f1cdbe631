"""The two buttons of a request that the model works on: one starts it, the other takes it back."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import anyio
import gradio as gr  # pyright: ignore[reportMissingImports]
from model_queue import ModelQueue, waiting_text
from page_html import status_line
from visitor import Visitor

TAKEN_BACK = "Stopped before it began."
STOPPING = "Stopping …"
LOST = "The connection was lost; try again in a moment."
_END = object()


def busy_buttons(is_busy: bool) -> list[Any]:
    """Updates of the two buttons."""
    return [gr.update(interactive=not is_busy), gr.update(interactive=is_busy)]


def connect_run(
    queue: ModelQueue,
    start: gr.Button,
    stop: gr.Button,
    status: gr.HTML,
    run: Callable[..., Iterator[Any]],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    cancel: Callable[[Visitor], None],
) -> None:
    """Connect the buttons.

    Args:
        queue: in which a request waits for the model.
        start, stop: the buttons.
        status: where the status line stands.
        run: yields updates of ``outputs``; its last one sets the buttons back.
        inputs: ``run``'s, the page's visitor first.
        outputs: ``run``'s, with the buttons and the status line.
        cancel: asks the visitor's request to end.
    """
    name, visitor = str(start.elem_id), inputs[0]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def told(text: str, kind: str, is_busy: bool) -> dict[Any, Any]:
        return {status: status_line(text, kind=kind), **dict(zip((start, stop), busy_buttons(is_busy)))}

    async def run_in_turn(request: gr.Request, visitor: Visitor, *values: Any) -> AsyncIterator[Any]:
        try:
            place = queue.join(*page_of(request))
        except ValueError as error:
            # a second click before the page has turned the button off
            yield gr.skip() if visitor.running == name else told(str(error), "error", False)
            return
        visitor.place, visitor.running = place, name
        try:
            async for ahead in queue.turn(place):
                yield told(waiting_text(ahead), "busy", True)
            if place.ahead is None:
                yield told(TAKEN_BACK, "plain", False)
                return
            async for update in in_threads(run(visitor, *values)):
                yield update
        finally:
            # also where the visitor has left the page
            place.leave()
            if visitor.place is place:
                visitor.place, visitor.running = None, ""

    def take_back(visitor: Visitor) -> dict[Any, Any]:
        place = visitor.place
        if place is None or visitor.running != name:
            return told("", "plain", False)
        if place.ahead:
            place.leave()
        cancel(visitor)
        return {status: status_line(STOPPING, kind="busy"), stop: gr.update(interactive=False)}

    running = start.click(
        run_in_turn,
        list(inputs),
        list(outputs),
        # requests wait in our own line, which is no queue of Gradio's
        concurrency_limit=None,
        # "once" would lose a click that follows the end of a request before the page knows of it
        trigger_mode="multiple",
        **quiet,
    )
    running.failure(lambda: told(LOST, "error", False), None, [status, start, stop], queue=False, **quiet)
    stop.click(take_back, visitor, [status, start, stop], queue=False, **quiet)


def page_of(request: gr.Request) -> tuple[str, str]:
    """What tells the visitor's page from others, and the address that it comes from."""
    return str(request.session_hash), str(getattr(request.client, "host", None) or "")


async def in_threads(items: Iterator[Any]) -> AsyncIterator[Any]:
    """The items of an iterator that computes, each made in a thread, so that other visitors are served meanwhile."""
    while (item := await anyio.to_thread.run_sync(next, items, _END)) is not _END:
        yield item
