"""Five-level image quality by any image-text-to-text model of transformers (arXiv 2412.10831, Eq. 10; Q-Align's form).

The model is asked how good the image is and made to begin its answer; the logits of bad, poor, fair, good and
excellent at the next position are the rating. The image enters through the model's own image processor, with
gradient. What stands before the image in the prompt is the same in every call, so its keys and values are computed
once; each size's first call checks that they change nothing, and architectures that number positions or mask attention
by what follows (Qwen2-VL, PaliGemma) go without.
Shapes: B images, L prompt positions, of which the first P precede the image.
"""

import copy
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ubgen_pipeline.models.clip_preprocessing import transformers_preprocessing

from .quality_levels import QUALITY_LEVELS

QUESTION = "How would you rate the quality of this image?"
ANSWER_START = "The quality of the image is"
# differences in the levels' probabilities that rounding explains; a wrong position or mask gives far more
PREFIX_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class PromptLayout:
    """What the processor makes of the prompt for one image size.

    Args:
        text_inputs: ``input_ids (1, L)`` and what else the tokenizer gives, of the same shape.
        prefix_length: P; 0 where no prefix is cached.
    """

    text_inputs: dict[str, torch.Tensor]
    prefix_length: int


class FiveLevelQuality(nn.Module):
    """Logits of the five levels, differentiable in the image. The model is frozen here.

    Args:
        model: an image-text-to-text model.
        processor: its processor.
        question, answer_start: what is asked, and how the answer begins.
        cache_prefix: keep the keys and values of what precedes the image.

    Raises:
        ValueError: the image processor has no gradient, there is no place for an image in the prompt, or the levels
            do not begin with five different tokens.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        *,
        question: str = QUESTION,
        answer_start: str = ANSWER_START,
        cache_prefix: bool = True,
    ):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.preprocess: Callable[[torch.Tensor], dict[str, torch.Tensor]] = transformers_preprocessing(
            processor.image_processor, nested=True
        )
        self.prompt = build_prompt(processor, question, answer_start)
        self.level_tokens = find_level_tokens(processor.tokenizer, self.prompt)
        # a chat template may have written the first token already
        start = processor.tokenizer.bos_token
        self._adds_special_tokens = not (start and self.prompt.startswith(start))
        # M-RoPE counts positions over the whole sequence, image included
        self.cache_prefix = cache_prefix and not hasattr(getattr(model, "model", model), "get_rope_index")
        # transformers has several names for it, depending on the model
        takes = inspect.signature(type(model).forward).parameters
        self._cache_argument = "cache" if "cache" in takes else "past_key_values"
        self._layouts: dict[tuple[int, int], PromptLayout] = {}
        # by image size, and by device and dtype of the model, which may be moved or cast
        self._prefixes: dict[tuple[tuple[int, int], torch.device, torch.dtype], Any] = {}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, 5)``, bad to excellent, of ``images (B, 3, H, W)`` nominally in [0, 1]."""
        layout = self._layout(images.shape[-2], images.shape[-1])
        return self._level_logits(images, layout, layout.prefix_length)

    def _level_logits(self, images: torch.Tensor, layout: PromptLayout, prefix_length: int) -> torch.Tensor:
        parameter = next(self.model.parameters())
        image_inputs = {
            name: value.to(parameter.device, parameter.dtype if value.is_floating_point() else None)
            for name, value in self.preprocess(images).items()
            if name not in ("rows", "cols")
        }
        text_inputs = {
            name: value[:, 0 if name == "attention_mask" else prefix_length :]
            .expand(len(images), -1)
            .to(parameter.device)
            for name, value in layout.text_inputs.items()
        }
        prefix: dict[str, Any] = {"use_cache": False}
        if prefix_length:
            prefix = {self._cache_argument: self._prefix(images, layout), "use_cache": True}
        logits = self.model(**text_inputs, **image_inputs, **prefix, logits_to_keep=1).logits
        return logits[:, -1, self.level_tokens].float()

    def _prefix(self, images: torch.Tensor, layout: PromptLayout) -> Any:
        """A copy for B images of the keys and values of the first P positions; the model appends to the copy."""
        parameter = next(self.model.parameters())
        made_on = (parameter.device, parameter.dtype)
        key = ((images.shape[-2], images.shape[-1]), *made_on)
        if key not in self._prefixes:
            self._prefixes = {key: prefix for key, prefix in self._prefixes.items() if key[1:] == made_on}
            text_inputs = {n: v[:, : layout.prefix_length].to(made_on[0]) for n, v in layout.text_inputs.items()}
            with torch.no_grad():
                self._prefixes[key] = self.model(**text_inputs, use_cache=True, logits_to_keep=1).past_key_values
        prefix = copy.deepcopy(self._prefixes[key])
        prefix.batch_repeat_interleave(len(images))
        return prefix

    def _layout(self, height: int, width: int) -> PromptLayout:
        if (height, width) not in self._layouts:
            # not black: some models take an image of zeros for padding
            example = torch.linspace(0, 1, 3 * height * width).view(3, height, width)
            inputs = self.processor(
                text=[self.prompt],
                images=[[example * 255]],
                add_special_tokens=self._adds_special_tokens,
                return_tensors="pt",
            )
            length = inputs["input_ids"].shape[1]
            text = {n: v for n, v in inputs.items() if isinstance(v, torch.Tensor) and v.shape == (1, length)}
            layout = PromptLayout(text, self._prefix_length(text["input_ids"]) if self.cache_prefix else 0)
            if layout.prefix_length and not self._prefix_is_exact(example[None], layout):
                self.cache_prefix = False
                layout = PromptLayout(text, 0)
                warnings.warn(
                    f"{type(self.model).__name__} answers differently with a cached prompt prefix; it runs without.",
                    stacklevel=2,
                )
            self._layouts[height, width] = layout
        return self._layouts[height, width]

    def _prefix_length(self, input_ids: torch.Tensor) -> int:
        image_token = getattr(self.model.config, "image_token_id", None)
        positions = (input_ids[0] == image_token).nonzero() if image_token is not None else torch.empty(0)
        return int(positions[0]) if len(positions) else 0

    @torch.no_grad()
    def _prefix_is_exact(self, images: torch.Tensor, layout: PromptLayout) -> bool:
        images = images.to(next(self.model.parameters()).device)
        cached, whole = (
            self._level_logits(images, layout, length).softmax(dim=-1) for length in (layout.prefix_length, 0)
        )
        return bool((cached - whole).abs().max() <= PREFIX_TOLERANCE[next(self.model.parameters()).dtype])


def build_prompt(processor: Any, question: str = QUESTION, answer_start: str = ANSWER_START) -> str:
    """The processor's chat format with the question, the image after it, and the beginning of the answer.

    Raises:
        ValueError: the processor has neither a chat template nor an image token.
    """
    if getattr(processor, "chat_template", None):
        content = [{"type": "text", "text": question}, {"type": "image"}]
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    elif getattr(processor, "image_token", None):
        prompt = f"USER: {question}\n{processor.image_token}\nASSISTANT:"
    else:
        raise ValueError(
            f"{type(processor).__name__} has neither a chat template nor an image token; "
            "give a quality_model whose processor has one."
        )
    return prompt + (" " if prompt.endswith((":", "]")) else "") + answer_start


def find_level_tokens(tokenizer: Any, prompt: str) -> list[int]:
    """The token that each level begins with when it goes on after ``prompt``.

    Raises:
        ValueError: two levels begin with the same token, or a level changes the prompt's own tokens.
    """
    start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    tokens = []
    for level in QUALITY_LEVELS:
        whole = tokenizer(f"{prompt} {level}", add_special_tokens=False)["input_ids"]
        if whole[: len(start)] != start or len(whole) == len(start):
            raise ValueError(f"the tokenizer of quality_model joins {level!r} to the prompt; choose another model.")
        tokens.append(whole[len(start)])
    if len(set(tokens)) != len(tokens):
        raise ValueError(
            f"the tokenizer of quality_model begins {', '.join(QUALITY_LEVELS)} with tokens {tokens}, which are not "
            "five different ones; choose another model."
        )
    return tokens


def load_five_level_quality(name: str, dtype: torch.dtype = torch.float32) -> FiveLevelQuality:
    """The image-text-to-text model called ``name``, a Hub id or ``id@revision`` or a folder, run with fused attention.

    Raises:
        ValueError: it cannot be loaded, or used for this.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    repository, _, revision = (name, "", "") if Path(name).is_dir() else name.partition("@")
    source = {"pretrained_model_name_or_path": repository, "revision": revision or "main"}
    model = AutoModelForImageTextToText.from_pretrained(
        **source, dtype=dtype, attn_implementation="sdpa", use_safetensors=True
    )
    return FiveLevelQuality(model, AutoProcessor.from_pretrained(**source))
