"""The address of a view: class, models, seed and settings as a query, and back to values of the page's controls."""

from collections.abc import Mapping
from typing import Any

# the page's controls in order: the name in the address of each
NAMES = ("class", "model", "samples", "seed", "steps", "guidance", "masks")
LONGEST_VALUE = 500
# Writes the values of the controls into the address, beside what else stands there. On the Hub the Space is a frame of
# a page whose address visitors see, and which takes this message.
WRITE_ADDRESS = """(...values) => {
  const query = new URLSearchParams(location.search);
  NAMES.forEach((name, at) => query.set(name, [values[at]].flat().map(value => value === true ? "1" : value === false
    ? "0" : String(value ?? "")).join(",")));
  history.replaceState(null, "", "?" + query + location.hash);
  if (window.parent !== window) window.parent.postMessage({queryString: String(query)}, "https://huggingface.co");
}""".replace("NAMES", str(list(NAMES)))


def values_of_query(query: Mapping[str, Any], defaults: list[Any]) -> list[Any] | None:
    """Values of the controls as an address has them; those that it leaves out are as the page begins.

    They may be anything: :func:`request_limits.check_request` decides about them.

    Args:
        query: names and values of the address.
        defaults: values that the page begins with.

    Returns:
        None for an address that holds no view.
    """
    texts = [query.get(name) for name in NAMES]
    if all(text is None for text in texts):
        return None
    return [
        default if not isinstance(text, str) or len(text) > LONGEST_VALUE else _value(name, text)
        for name, text, default in zip(NAMES, texts, defaults)
    ]


def _value(name: str, text: str) -> Any:
    if name == "class":
        return text
    if name == "model":
        return text.split(",")
    if name == "masks":
        return text == "1"
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return text
