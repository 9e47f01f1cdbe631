"""The Jinja templates of the cards, with the filters that every value that is not ours passes."""

from collections.abc import Callable
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from .card_text import markdown_code, markdown_text


@cache
def card_template(name: str, **filters: Callable[..., str]) -> Template:
    """The template file ``name`` with the filters ``text`` and ``code``, and those given."""
    environment = Environment(
        loader=PackageLoader("ubgen_hub_cards", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # the output is Markdown, which HTML's escapes do not make safe
        autoescape=False,
    )
    environment.filters |= {"text": markdown_text, "code": markdown_code, **filters}
    return environment.get_template(name)
