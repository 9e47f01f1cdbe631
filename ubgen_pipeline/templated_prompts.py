"""Prompts in a template, as a family reads them: how many tokens they take, and where their words stand among them."""

from collections.abc import Callable
from typing import Any

from transformers import BatchEncoding

# stands for a prompt where the template's own text is looked for; of Unicode's private use, so in no template
_PLACE = "\ue000"


class TemplatedTokenizer:
    """Tokenizes prompts as a family does that puts them into a template; called like a tokenizer.

    Args:
        tokenizer: a fast transformers tokenizer (it gives offsets).
        template: of a prompt the text that the text encoder reads.
        with_marks: whether the tokenizer adds marks of begin and end, which otherwise stand in the template.
        num_dropped: tokens at the beginning whose features the family leaves out, a mark of the begin not counted.
        length: tokens that every text is filled up to, on the tokenizer's side; None fills nothing.
        length_unit: tokens that every text is filled up to a multiple of, before it.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: Callable[[str], str],
        *,
        with_marks: bool = False,
        num_dropped: int = 0,
        length: int | None = None,
        length_unit: int = 1,
    ):
        self._tokenizer, self._template, self._with_marks = tokenizer, template, with_marks
        self._num_dropped, self._length, self._length_unit = num_dropped, length, length_unit

    def __call__(self, prompt: str, **_: Any) -> BatchEncoding:
        """``input_ids`` of the text, and ``offset_mapping``: where in the prompt each token stands whose features the
        family reads, in order; (0, 0) for those of the template, and for what fills the text up before it."""
        tokens = self._tokenizer(
            self._template(prompt), return_offsets_mapping=True, add_special_tokens=self._with_marks, verbose=False
        )
        first = self._template(_PLACE).index(_PLACE)
        last = first + len(prompt)
        offsets = [
            (max(start, first) - first, min(end, last) - first) if start < last and end > first else (0, 0)
            for start, end in tokens["offset_mapping"]
        ]
        if self._length is not None and self._tokenizer.padding_side == "left":
            offsets = [(0, 0)] * (self._length - len(offsets)) + offsets
        offsets = [(0, 0)] * (-len(offsets) % self._length_unit) + offsets
        first_kept = int(self._with_marks)
        offsets = offsets[:first_kept] + offsets[first_kept + self._num_dropped :]
        return BatchEncoding({"input_ids": tokens["input_ids"], "offset_mapping": offsets})

    def count(self, prompt: str) -> int:
        """Tokens of the text."""
        return len(self(prompt)["input_ids"])  # pyright: ignore[reportArgumentType]
