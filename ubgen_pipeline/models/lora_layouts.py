"""What a file that is given as a LoRA holds, by the names of its weights: those that are none get their right name.

Names are those of LyCORIS, kohya's scripts, peft and the authors of models.
"""

import re
from collections.abc import Collection

_MERGE = "merge it into the model with the program that made it, or extract a LoRA from it there"
# what the names of weights show, what it is called, and what to do with it
_OTHERS: tuple[tuple[str, str, str], ...] = (
    (
        r"^(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner\.embedders)\.",
        "a whole model in one file",
        "give it as the model",
    ),
    (r"^bundle_emb\.", "a LoRA with a textual inversion in the same file", "save each in a file of its own"),
    (r"^(string_to_param|emb_params$|clip_[lg]$)", "a textual inversion", "give it as an embedding"),
    (r"^(control_model\.|controlnet_|input_hint_block)", "a ControlNet", "take a LoRA instead"),
    (r"^(ip_adapter\.|image_proj\.)", "an IP-Adapter", "take a LoRA instead"),
    (r"\.lora_mid\.weight$", "a LoCon with a third factor (CP decomposition)", _MERGE),
    (r"\.hada_t[12]$", "a LoHa with a third factor (CP decomposition)", _MERGE),
    (r"\.lokr_", "a LoKr", _MERGE),
    (r"\.hada_", "a LoHa", _MERGE),
    (r"\.(oft_blocks|oft_diag|oft_R)", "an OFT", _MERGE),
    (r"\.(boft_|hra_|vera_|ia3_|on_input$)", "an adapter of another kind than LoRA", _MERGE),
    (r"\.(a1|b1)\.weight$", "a GLoRA", _MERGE),
    (r"\.(diff|diff_b|set_weight|w_norm|b_norm)$", "full differences of weights", _MERGE),
    (r"dora_scale$", "a DoRA in kohya's layout", _MERGE),
)


def other_kind(names: Collection[str], known: Collection[str] = ()) -> tuple[str, str] | None:
    """What the file is, with an article, and what to do with it; None where all weights are a LoRA's.

    Args:
        names: of the weights.
        known: parts of names, such as ``.hada_``, that are read although they are no LoRA's.
    """
    for pattern, title, advice in _OTHERS:
        found = next((name for name in names if re.search(pattern, name)), None)
        if found is not None and not any(part in found for part in known):
            return title, advice
    return None
