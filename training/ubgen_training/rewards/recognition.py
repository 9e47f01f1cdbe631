"""Whether somebody else sees the class in an image: rewards that are decisions, and so have no gradient.

They are for trainings that need none, and for evaluations: a model that was not trained against is hard to fool.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import normalize
from torchvision.transforms.functional import to_pil_image

from ubgen_pipeline.models.clip_encoders import ClipEncoder

from .clip_alignment import encode_class_texts


class RecognitionReward:
    """1 where, of all class texts, the image's own is the most similar to a zero-shot classifier, else 0.

    Args:
        encoder: the classifier's encoder of images and texts.
        class_names: all N names, in label order.
        prompt: template of the texts.

    Raises:
        ValueError: a ``prompt`` without ``{name}``, or fewer than two classes, among which nothing is decided.
    """

    __name__ = "recognised"
    differentiable = False

    def __init__(self, encoder: ClipEncoder, class_names: Sequence[str], prompt: str = "photo of {name}"):
        if len(class_names) < 2:
            raise ValueError(
                f"reward 'recognised' decides among classes, and class_names holds {len(class_names)}; name two or "
                "more, or leave it out."
            )
        self.encoder = encoder
        texts = encode_class_texts(encoder, class_names, prompt)
        self.text_features = normalize(texts.detach().float(), dim=-1)

    @torch.no_grad()
    def __call__(
        self, images: torch.Tensor, class_names: Sequence[str], labels: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        """Values ``(B,)`` of ``images (B, 3, H, W)`` nominally in [0, 1]."""
        features = normalize(self.encoder.encode_images(images.clamp(0, 1)).float(), dim=-1)
        chosen = (features @ self.text_features.to(features.device).T).argmax(dim=1)
        return (chosen == labels.to(chosen.device)).float()

    def to(self, device: torch.device | str) -> "RecognitionReward":
        """Move the encoder; the reward itself is returned."""
        self.encoder.to(device)
        return self


class DetectionReward:
    """The score of the surest object of the image's class that a detector which takes words finds; 0 where it finds
    none.

    Args:
        model: a zero-shot object detection model of transformers (OWLv2, Grounding DINO …): a Hub id,
            ``id@revision``, or a folder.
        setting: the one that names it, for errors.

    Raises:
        ValueError: it cannot be loaded.
    """

    differentiable = False

    def __init__(self, model: str, setting: str = "reward_funcs"):
        from transformers import pipeline

        repository, _, revision = model.partition("@")
        try:
            self.detector = pipeline(
                "zero-shot-object-detection",
                model=repository,
                revision=revision or None,
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"{setting} holds 'detector:{model}', which cannot be loaded ({first_line}); give the Hub id or the "
                "folder of a zero-shot object detection model, with safetensors."
            ) from error
        # one can train and another, which was not trained against, be held out
        self.__name__ = f"detected_{repository.rstrip('/').rpartition('/')[2]}"

    @torch.no_grad()
    def __call__(
        self, images: torch.Tensor, class_names: Sequence[str], labels: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        """Values ``(B,)`` in [0, 1] of ``images (B, 3, H, W)`` nominally in [0, 1]."""
        values = []
        for image, name in zip(images, class_names, strict=True):
            found = self.detector(
                to_pil_image(image.clamp(0, 1).cpu()), candidate_labels=[f"a photo of a {name}"], threshold=0.0
            )
            values.append(max((float(one["score"]) for one in found), default=0.0))
        return torch.tensor(values, dtype=torch.float32, device=images.device)

    def to(self, device: torch.device | str) -> "DetectionReward":
        """Move the detector; the reward itself is returned."""
        torch.nn.Module.to(self.detector.model, device)
        self.detector.device = torch.device(device)
        return self
