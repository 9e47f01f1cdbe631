"""Scores of one image: its fit to its class, its perceptual hash, its safety flag."""

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from ..dataset.score_columns import CLIP_COLUMNS, HASH_COLUMN, SAFETY_COLUMN
from .perceptual_hash import hash_text, perceptual_hash
from .settings import ScoreFlags


class ImageScorer:
    """Scores images as the dataset stores them, one at a time. Safe to call from several threads.

    Args:
        flags: which scores, and by which models.
        class_names: in label order.
        generator: name of the model that drew the images.
        own_checker: whether that model's own safety checker flagged images while it drew.
        device: where the models of the scores run.

    Raises:
        ValueError: a CLIP or checker that cannot be loaded, or a safety flag asked for and no checker to give it.
    """

    def __init__(
        self, flags: ScoreFlags, class_names: Sequence[str], *, generator: str, own_checker: bool, device: str
    ):
        self._wanted = flags.wanted_scores()
        self._clip = self._flagger = None
        if "safety" in self._wanted and flags.safety_checker is None and not own_checker:
            raise ValueError(
                f"scores holds 'safety', and {generator!r} has no safety checker of its own; name one with"
                " safety_checker, such as CompVis/stable-diffusion-safety-checker."
            )
        # models load only where they are asked for
        if flags.safety_checker is not None:
            from .safety_flags import SafetyFlagger

            self._flagger = SafetyFlagger(flags.safety_checker, device)
        if "clip" in self._wanted:
            from .clip_scores import ClipScorer

            self._clip = ClipScorer(flags.clip_for(generator), class_names, flags.clip_template, device)

    def __call__(
        self, data: bytes, label: int | None, flagged: bool | None, hashed: str | None = None
    ) -> dict[str, Any]:
        """The columns' values.

        Args:
            data: the image's file.
            label: its class; without one there is nothing to compare with.
            flagged: what the column of the safety flag holds so far.
            hashed: its hash, where it is known.
        """
        with Image.open(io.BytesIO(data)) as opened:
            image = opened.convert("RGB")
        columns: dict[str, Any] = {}
        is_black = image.getbbox() is None
        if self._clip is not None:
            score = None if is_black or label is None else self._clip(image, label)
            values = (None, None, None) if score is None else (score.score, score.label, score.probability)
            columns |= dict(zip(CLIP_COLUMNS, values))
        if "duplicates" in self._wanted:
            columns[HASH_COLUMN] = hashed or (None if is_black else hash_text(perceptual_hash(image)))
        if "safety" in self._wanted:
            columns[SAFETY_COLUMN] = bool(flagged) or (self._flagger is not None and self._flagger(image))
        return columns
