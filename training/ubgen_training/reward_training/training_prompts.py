"""What a training from rewards draws: the prompts of its classes, or each prompt of a file as a class."""

import re

from ubgen_pipeline.prompt_weights import plain_text
from ubgen_pipeline.prompts.class_prompts import ClassPrompt, class_prompts, load_class_names, spelling
from ubgen_pipeline.samples.prompt_samples import load_prompt_samples

from .config import SamplerConfig


def load_prompts(config: SamplerConfig) -> list[ClassPrompt]:
    """The classes of ``class_names``, ``classes`` or ``captions``, with their prompts, in label order.

    Raises:
        ValueError: none or several are given, or a name cannot be used.
    """
    given = [name for name in ("class_names", "classes", "captions") if getattr(config, name)]
    if not given:
        raise ValueError(
            "class_names is empty; give --class_names A B ..., --classes FILE_OR_BUILT_IN_LIST or --captions FILE."
        )
    if len(given) > 1:
        values = " and ".join(f"{name} ({getattr(config, name)!r})" for name in given)
        raise ValueError(f"{values} are given; give one of them.")
    names = load_class_names(_captions(config) if config.captions else config.class_names or str(config.classes))
    return class_prompts(names, config.prompt_template, argument="prompt_template")


def _captions(config: SamplerConfig) -> list[str]:
    """The prompts of the file ``captions``, each once, without the signs of word weights.

    Raises:
        ValueError: no file with prompts.
    """
    try:
        prompts = load_prompt_samples(
            str(config.captions), seed=config.seed, max_prompts=config.captions_per_class
        ).prompts()
    except ValueError as error:
        # the reader of such files knows the argument by the name that it has in generation
        raise ValueError(re.sub(r"^classes is\b", "captions is", str(error))) from error
    texts = [plain_text(prompt.prompt) if prompt.weighted else prompt.prompt for prompt in prompts]
    # two that are one to a text encoder would be refused as names
    different: dict[str, str] = {}
    for text in texts:
        different.setdefault(spelling(text), text)
    return list(different.values())
