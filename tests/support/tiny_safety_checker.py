"""A tiny random ``StableDiffusionSafetyChecker`` that flags about half of the images it is made for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor


def build_safety_checker(images: Sequence[Image.Image]) -> tuple[StableDiffusionSafetyChecker, CLIPImageProcessor]:
    """The checker and its image processor: flagged is what lies above the largest gap near the images' middle."""
    tiny = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = CLIPConfig(vision_config={**tiny, "image_size": 32, "patch_size": 8}, projection_dim=4)
        checker = StableDiffusionSafetyChecker(config).eval()
        concept = torch.randn(4)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    # one concept that can be met, and no special care
    checker.concept_embeds.copy_(concept.expand_as(checker.concept_embeds))
    checker.special_care_embeds_weights.fill_(2)
    cosines = np.sort([concept_cosine(checker, processor, image) for image in images])
    middle = slice(len(cosines) // 4, max(len(cosines) // 4 + 2, 3 * len(cosines) // 4 + 1))
    gap = int(np.diff(cosines[middle]).argmax()) + middle.start
    checker.concept_embeds_weights.fill_(float(cosines[gap : gap + 2].mean()))
    return checker, processor


@torch.no_grad()
def concept_cosine(checker: StableDiffusionSafetyChecker, processor: CLIPImageProcessor, image: Image.Image) -> float:
    """How near an image comes to the concept, as the checker computes it."""
    pixels = processor(images=image, return_tensors="pt").pixel_values
    features = checker.visual_projection(checker.vision_model(pixels)[1])
    return float(torch.nn.functional.cosine_similarity(features, checker.concept_embeds[:1])[0])


def save_safety_checker(folder: Path | str, images: Sequence[Image.Image]) -> str:
    """Save both under ``folder``, as the Hub's repository of Stable Diffusion's checker holds them."""
    checker, processor = build_safety_checker(images)
    checker.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)
