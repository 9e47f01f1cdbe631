"""The two buttons of a request that the model works on: one starts it, the other takes it back.

Requests wait for each other, since there is one model. What a click does at once is done outside the queue: the first
button goes off, so that nobody takes two places, and the second on, so that a request can be taken back in the queue.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
from page_html import status_line
from visitor import ModelRequest, Visitor

WAITING = "Waiting for the model."
TAKEN_BACK = "Stopped before it began."
TURNED_AWAY = "Too many requests wait, or the connection was lost; try again in a moment."


def busy_buttons(is_busy: bool) -> list[Any]:
    """Updates of the two buttons."""
    return [gr.update(interactive=not is_busy), gr.update(interactive=is_busy)]


def connect_run(
    start: gr.Button,
    stop: gr.Button,
    status: gr.HTML,
    run: Callable[..., Iterator[Any]],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    cancel: Callable[[Visitor], str],
) -> None:
    """Connect the buttons.

    Args:
        start, stop: the buttons.
        status: where the status line stands.
        run: yields updates of ``outputs``; its last one sets the buttons back.
        inputs: ``run``'s, the page's visitor first.
        outputs: ``run``'s, with the buttons and the status line.
        cancel: asks the visitor's request to end; returns the text that then stands in the status line.
    """
    name, shown = str(start.elem_id), [status, start, stop]
    at_once: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

    def claim(visitor: Visitor) -> list[Any]:
        visitor.requests[name] = ModelRequest()
        return [status_line(WAITING, kind="busy"), *busy_buttons(True)]

    def run_claimed(visitor: Visitor, *values: Any) -> Iterator[Any]:
        request = visitor.requests.get(name)
        if request is None or request.has_begun:
            # taken back at the very moment when it left the queue
            yield gr.skip()
            return
        request.has_begun = True
        yield from run(visitor, *values)
        # not one that was made after this was taken back
        if visitor.requests.get(name) is request:
            del visitor.requests[name]

    def take_back(visitor: Visitor) -> list[Any]:
        request = visitor.requests.pop(name, None)
        if request is not None:
            # the page calls that a failure, too
            visitor.taken_back[name] += 1
        has_waited = request is not None and not request.has_begun
        return [status_line(TAKEN_BACK if has_waited else cancel(visitor)), *busy_buttons(False)]

    def turn_away(visitor: Visitor) -> Any:
        if visitor.taken_back[name]:
            visitor.taken_back[name] -= 1
            return gr.skip()
        visitor.requests.pop(name, None)
        return [status_line(TURNED_AWAY, kind="error"), *busy_buttons(False)]

    visitor = inputs[0]
    claimed = start.click(claim, visitor, shown, **at_once)
    running = claimed.then(
        run_claimed,
        list(inputs),
        list(outputs),
        concurrency_limit=1,
        concurrency_id="model",
        show_progress="minimal",
        show_progress_on=status,
        api_visibility="private",
        # "once" would lose a click that follows a stop before the page knows that the request is over
        trigger_mode="multiple",
    )
    running.failure(turn_away, visitor, shown, **at_once)
    stop.click(take_back, visitor, shown, cancels=running, **at_once)
