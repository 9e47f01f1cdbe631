"""The card of the pipeline's code on the Hub."""

from huggingface_hub import ModelCardData

from .card_templates import card_template
from .card_text import is_hub_id

TEMPLATE = "pipeline_card.md.jinja"


def render_pipeline_card(repo_id: str, version: str) -> str:
    """The card's Markdown, metadata first.

    Args:
        repo_id: ``owner/name``.
        version: of ubgen.

    Raises:
        ValueError: ``repo_id`` is not spelt like an id on the Hub.
    """
    if not is_hub_id(repo_id):
        raise ValueError(f"repo_id is {repo_id!r}; give owner/name.")
    metadata = ModelCardData(
        license="apache-2.0", library_name="diffusers", pipeline_tag="text-to-image", tags=["ubgen", "custom-pipeline"]
    )
    return card_template(TEMPLATE).render(metadata=metadata.to_yaml(), repo_id=repo_id, version=version)
