"""Where a run keeps the features of its prompts: in memory, and in a folder that other runs share."""

from ..inference.prompt_cache import PromptCache, PromptFolder, lora_facts, made_by
from ..models.text_embeddings import split_embedding
from .row_drawer import RowSettings


def run_prompt_cache(
    rows: RowSettings, folder: str | None, num_chunks: int | None, dtype: str, device: str, offload: str
) -> PromptCache:
    """A cache for prompts of those rows.

    Args:
        rows: what they are drawn with.
        folder: of prompts' features on disk, told apart by all that their conditioning depends on; None for memory
            alone.
        num_chunks: tokenizer lengths of every prompt, where word weights are read; None where they are not.
        dtype: of the text encoders, by torch's name.
        device: that the model draws on.
        offload: with ``text``, the encoders are moved to that device while they encode, and back.
    """
    source = rows.source
    shared = None
    if folder is not None:
        facts = made_by(
            source.model,
            rows.variant,
            source.model_revision,
            dtype=dtype,
            device=device,
            loras=lora_facts((*source.loras, source.few_step_lora)),
            embeddings=[split_embedding(embedding) for embedding in rows.embeddings],
            quantization=rows.quantization,
        )
        shared = PromptFolder(folder, facts)
    return PromptCache(num_chunks, text_device=device if offload == "text" else None, folder=shared)
