"""Scores of one image: its fit to its class by a CLIP, its perceptual hash, its flag by a safety checker.

:class:`ImageScorer` gives the columns of a row; behind it are :class:`ClipScorer` and :class:`SafetyFlagger`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from ..dataset.columns import CLIP_COLUMNS, HASH_COLUMN, SAFETY_COLUMN
from ..files.image_codecs import read_rgb
from ..models.clip_encoders import load_clip_encoder, picture_pixels
from ..models.loading_lock import one_at_a_time
from .duplicates import hash_text, perceptual_hash
from .settings import ScoreSettings


class ImageScorer:
    """Scores images as the dataset stores them, one at a time. Safe to call from several threads.

    Args:
        settings: which scores, and by which models.
        class_names: in label order.
        generator: name of the model that drew the images.
        own_checker: whether that model's own safety checker flagged images while it drew.
        device: where the models of the scores run.

    Raises:
        ValueError: a CLIP or checker that cannot be loaded, or a safety flag asked for and no checker to give it.
    """

    def __init__(
        self, settings: ScoreSettings, class_names: Sequence[str], *, generator: str, own_checker: bool, device: str
    ):
        self._wanted = settings.wanted_scores()
        self._clip = self._flagger = None
        if "safety" in self._wanted and settings.safety_checker is None and not own_checker:
            raise ValueError(
                f"scores holds 'safety', and {generator!r} has no safety checker of its own; name one with"
                " safety_checker, such as CompVis/stable-diffusion-safety-checker."
            )
        # models load only where they are asked for
        if settings.safety_checker is not None:
            self._flagger = SafetyFlagger(settings.safety_checker, device)
        if "clip" in self._wanted:
            self._clip = ClipScorer(settings.clip_for(generator), class_names, settings.clip_template, device)

    def no_scores(self) -> dict[str, Any]:
        """The columns' values of an image that cannot be read."""
        columns = {"clip": CLIP_COLUMNS, "duplicates": (HASH_COLUMN,), "safety": (SAFETY_COLUMN,)}
        return {name: None for score in self._wanted for name in columns[score]}

    def __call__(
        self,
        data: bytes | None,
        label: int | None,
        flagged: bool | None,
        hashed: str | None = None,
        what: str = "image",
    ) -> dict[str, Any]:
        """The columns' values.

        Args:
            data: the image's file.
            label: its class; without one there is nothing to compare with.
            flagged: what the column of the safety flag holds so far.
            hashed: its hash, where it is known.
            what: the image is, for errors.

        Raises:
            DamagedImageError: it cannot be decoded.
        """
        image = read_rgb(data, what)
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


@dataclass(frozen=True)
class ClipScore:
    """What a CLIP says of one image.

    Attributes:
        score: cosine of the image's feature and that of its own class's text, in [-1, 1].
        label: the class whose text is nearest; the image's own where several classes share that text.
        probability: of that text, in (0, 1]: a softmax over the texts of all classes at the CLIP's own temperature.
    """

    score: float
    label: int
    probability: float


class ClipScorer:
    """Scores images one at a time, so that a score depends on no other image. Safe to call from several threads.

    Args:
        name: see :func:`.load_clip_encoder`.
        class_names: in label order.
        template: of a class's text, with ``{name}``.
        device: where the CLIP runs, in float32.

    Raises:
        ValueError: a CLIP that cannot be loaded.
    """

    def __init__(self, name: str, class_names: Sequence[str], template: str, device: str = "cpu"):
        self._encoder, self._device = load_clip_encoder(name).to(device), device
        texts = [template.replace("{name}", class_name) for class_name in class_names]
        distinct = list(dict.fromkeys(texts))
        # a class's text, and the first class of each text: two classes may have one name
        self._text_of = [distinct.index(text) for text in texts]
        self._first_class = [texts.index(text) for text in distinct]
        self._text_features = normalize(self._encoder.encode_texts(distinct).float(), dim=-1)
        self._scale = self._encoder.logit_scale

    @torch.no_grad()
    def __call__(self, image: Image.Image, label: int) -> ClipScore:
        """The scores of an RGB image of the class ``label``."""
        features = normalize(self._encoder.encode_images(picture_pixels(image).to(self._device)).float(), dim=-1)
        cosines = (features @ self._text_features.T)[0].clamp(-1, 1)
        own, nearest = self._text_of[label], int(cosines.argmax())
        # classes with equal features are equally near: that is no mistake of the image's own class
        nearest = own if cosines[own] == cosines[nearest] else nearest
        probability = (self._scale * cosines).softmax(dim=0)[nearest]
        return ClipScore(
            score=float(cosines[own]),
            label=label if nearest == own else self._first_class[nearest],
            probability=float(probability),
        )


class SafetyFlagger:
    """Asks a checker about images one at a time, so that a flag depends on no other image.

    Args:
        source: folder or Hub id of a ``StableDiffusionSafetyChecker``, or of a model that has one.
        device: where it runs.

    Raises:
        ValueError: no checker there.
    """

    def __init__(self, source: str, device: str = "cpu"):
        place = str(Path(source).expanduser()) if Path(source).expanduser().exists() else source
        try:
            try:
                model, self._processor = _load(place, "safety_checker", "feature_extractor")
            except OSError:
                model, self._processor = _load(place, "", "")
        # transformers raises several kinds of errors for a model that is missing or of another kind
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"safety_checker is {source!r}, which could not be loaded ({first_line}); give the folder or Hub id of"
                " a StableDiffusionSafetyChecker in safetensors, or of a model that has one."
            ) from error
        self._model, self._device = model.eval().to(device), device

    @torch.no_grad()
    def __call__(self, image: Image.Image) -> bool:
        """Whether the checker flags an RGB image."""
        pixels = self._processor(images=image, return_tensors="pt")["pixel_values"].to(self._device)
        # the checker blackens the images that it is given: here a single pixel, which is thrown away
        _, flags = self._model(clip_input=pixels, images=np.ones((1, 1, 1, 3), np.float32))
        return bool(flags[0])


@one_at_a_time
def _load(place: str, checker_folder: str, processor_folder: str) -> tuple[Any, Any]:
    """The checker and its image processor in these folders of a model."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    # with output_loading_info the call gives a pair
    loaded: Any = StableDiffusionSafetyChecker.from_pretrained(
        place, subfolder=checker_folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True
    )
    model, report = loaded
    # with the weights of another kind of model, the checker would keep random weights
    if report["missing_keys"]:
        raise ValueError(f"its weights lack {sorted(report['missing_keys'])[0]!r}")
    return model, CLIPImageProcessor.from_pretrained(place, subfolder=processor_folder)
