"""Prompts as a model draws them: with the class words appended where masks need them, and cut to what it reads."""

from typing import TYPE_CHECKING

from ..attention_maps import check_levels
from ..class_texts import class_token_weights
from ..class_tokens import append_class_words, fit_prompt
from ..mask_settings import MaskSettings
from ..prompts.class_prompts import ClassPrompt
from ..samples.caption_samples import ShownPrompt, shown_words

if TYPE_CHECKING:
    from ..pipeline import UbGenPipeline


def drawn_prompt(pipeline: "UbGenPipeline", item: ClassPrompt, settings: MaskSettings | None) -> str:
    """The text that a prompt's image is drawn from.

    Args:
        pipeline: the model that reads it.
        item: the prompt. A caption of a file that is too long loses words at its end, as the tokenizer would cut it,
            but before the class words.
        settings: of the masks; None where no annotation is asked for.
    """
    words, _ = shown_words(item)
    text = item.prompt
    if settings is not None and settings.append_class_names:
        text = append_class_words(text, words)
    if isinstance(item, ShownPrompt):
        text = fit_prompt(pipeline.tokenizer, text, words, pipeline.tokenizer.model_max_length)
    return text


def check_annotated(pipeline: "UbGenPipeline", items: list[ClassPrompt], settings: MaskSettings) -> None:
    """Refuse what masks cannot be made for, before anything is drawn.

    Raises:
        ValueError: a class word that is not where the masks need it, or a level of the settings where the model has
            no attention.
    """
    check_levels(pipeline.unet, settings.cross_levels, settings.self_level)
    for item in items:
        words, _ = shown_words(item)
        text = drawn_prompt(pipeline, item, settings)
        class_token_weights(pipeline, text, list(dict.fromkeys(words)), settings.class_prompt)


def num_shortened(pipeline: "UbGenPipeline", items: list[ClassPrompt]) -> int:
    """How many prompts lose words."""
    return sum(drawn_prompt(pipeline, item, None) != item.prompt for item in items)
