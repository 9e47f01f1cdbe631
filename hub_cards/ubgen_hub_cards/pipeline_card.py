"""The card of the pipeline's code on the Hub."""

from huggingface_hub import ModelCardData

from .card_templates import card_template
from .card_text import is_hub_id

TEMPLATE = "pipeline_card.md.jinja"


def render_pipeline_card(repo_id: str, version: str, *, class_name: str, stock_name: str, example_model: str) -> str:
    """The card's Markdown, metadata first.

    Args:
        repo_id: ``owner/name``.
        version: of ubgen.
        class_name: of the pipeline.
        stock_name: the class of diffusers that it adds the call to.
        example_model: Hub id of a model that goes with it.

    Raises:
        ValueError: ``repo_id`` is not spelt like an id on the Hub.
    """
    if not is_hub_id(repo_id):
        raise ValueError(f"repo_id is {repo_id!r}; give owner/name.")
    metadata = ModelCardData(
        license="apache-2.0", library_name="diffusers", pipeline_tag="text-to-image", tags=["ubgen", "custom-pipeline"]
    )
    return card_template(TEMPLATE).render(
        metadata=metadata.to_yaml(),
        repo_id=repo_id,
        version=version,
        class_name=class_name,
        stock_name=stock_name,
        example_model=example_model,
    )
