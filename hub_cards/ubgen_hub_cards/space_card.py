"""The card of a Space: its metadata decides what the Hub runs.

Values of variables may have been typed by anybody who can write to the Space; see :mod:`ubgen_hub_cards.card_text`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from huggingface_hub import SpaceCardData

from .card_templates import card_template
from .card_text import is_hub_id, without_tokens

TEMPLATE = "space_card.md.jinja"
SDK = "gradio"
# a version that the browser tests have run
SDK_VERSION = "6.31.0"
PYTHON_VERSION = "3.11"

# what the variable decides, and what holds where it is not set
VARIABLES = {
    "UBGEN_MODEL": (
        "`mini`, `mini-flow`, a folder in diffusers layout, or a Hub id of a model of any family that ubgen knows",
        "`mini`",
    ),
    "UBGEN_VARIANT": ("variant of the model's weights, such as `fp16`", "the plain ones, or what there is"),
    "UBGEN_LORA": (
        "LoRA that is compared with the base, or two, separated by a comma: folder, file or Hub id, with `:STRENGTH`"
        " where that is not 1",
        "for `mini` the shipped one",
    ),
    "UBGEN_CLASSES": (
        "class file, or a built-in list: imagenet1k, imagenet100, voc, coco",
        "the mini world's ten for its models, else imagenet1k",
    ),
    "UBGEN_DATASETS": ("datasets offered for browsing, separated by commas: Hub ids or local folders", "none"),
    "UBGEN_REPORT": ("report.json of `ubgen evaluate`, for the tab on bias", "none"),
    "UBGEN_DEVICE": ("where the model runs", "CUDA where there is one"),
    "UBGEN_MAX_SAMPLES": ("images of one model per request", "8"),
    "UBGEN_MAX_STEPS": ("denoising steps per request", "50"),
    "UBGEN_MAX_QUEUE": ("requests that wait; more are turned away", "16"),
    "UBGEN_MAX_GPU_SECONDS": ("for which a request may borrow a GPU where one is lent; more is refused", "120"),
}


@dataclass(frozen=True)
class SpaceFacts:
    """What a Space is.

    Args:
        title: its name for visitors.
        version: of the ubgen inside; None where none is inside.
        variables: of the Space, by name.
    """

    title: str = "ubgen"
    version: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """Model and LoRA, as far as they are on the Hub."""
        loras = self.variables.get("UBGEN_LORA", "").split(",")
        named = [self.variables.get("UBGEN_MODEL", ""), *(lora.strip().partition(":")[0] for lora in loras)]
        return [name for name in named if is_hub_id(name)]

    @property
    def datasets(self) -> list[str]:
        """The offered datasets, as far as they are on the Hub."""
        named: Sequence[str] = self.variables.get("UBGEN_DATASETS", "").split(",")
        return [name.strip() for name in named if is_hub_id(name.strip())]


def space_metadata(facts: SpaceFacts) -> SpaceCardData:
    """The card's metadata: what to run, with what, and which models and datasets it uses."""
    return SpaceCardData(
        title=facts.title,
        emoji="🎲",
        colorFrom="green",
        colorTo="gray",
        sdk=SDK,
        sdk_version=SDK_VERSION,
        python_version=PYTHON_VERSION,
        app_file="app.py",
        pinned=False,
        license="apache-2.0",
        short_description="Class names in, a low-bias labelled image dataset out",
        tags=["ubgen", "text-to-image", "synthetic-data", "bias"],
        models=facts.models or None,
        datasets=facts.datasets or None,
    )


def render_space_card(facts: SpaceFacts) -> str:
    """The card's Markdown, metadata first."""
    values = {name: value for name, value in facts.variables.items() if name in VARIABLES and value}
    body = card_template(TEMPLATE).render(facts=facts, variables=VARIABLES, values=values)
    return f"---\n{space_metadata(facts).to_yaml().strip()}\n---\n\n{without_tokens(body)}"
