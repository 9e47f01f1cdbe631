"""What a card says of the columns of scores: by which model, with which text, within which distance."""

from collections.abc import Collection, Mapping
from typing import Any

from .score_columns import CLIP_COLUMNS, GROUP_COLUMN, SAFETY_COLUMN


def score_notes(facts: Mapping[str, Mapping[str, Any]], columns: Collection[str]) -> dict[str, str]:
    """Markdown for the columns that the facts of a manifest's ``scores`` tell more of than the card itself knows.

    Args:
        facts: see :meth:`.score_flags.ScoreFlags.score_facts`.
        columns: those that the dataset has.
    """
    from ubgen_hub_cards.card_text import markdown_code, markdown_text

    notes = {}
    if (clip := facts.get("clip")) is not None:
        model, text = markdown_code(clip["model"]), markdown_text(clip["template"])
        notes[CLIP_COLUMNS[0]] = (
            f"cosine, from -1 to 1, of the image and the text “{text}”, filled with its own class's name, for the CLIP"
            f" {model}; null where the image is black all over"
        )
        notes[CLIP_COLUMNS[1]] = f"the class whose text is nearest to the image for {model}"
        notes[CLIP_COLUMNS[2]] = (
            f"that class's probability for {model}: a softmax over the texts of all classes at the CLIP's own"
            " temperature"
        )
    distance = facts.get("duplicates", {}).get("max_hash_distance")
    if distance is not None:
        notes[GROUP_COLUMN] = (
            "`index` of the first row of this row's group of near-duplicates: rows linked by pairs whose hashes differ"
            f" in at most {distance} of 64 bits"
        )
    if (checker := facts.get("safety", {}).get("model")) is not None:
        notes[SAFETY_COLUMN] = (
            f"whether the safety checker of {markdown_code(checker)} flagged the image, or the generator's own, which"
            " makes it black"
        )
    return {name: note for name, note in notes.items() if name in columns}
