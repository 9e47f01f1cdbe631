"""A text-generation model of transformers that answers caption requests, each from its own seed.

Shapes: R requests, V words of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper
from transformers.models.auto import modeling_auto

from ..models.model_files import loading_fault
from .caption_checks import Answer
from .caption_requests import CaptionRequest

_SETTING = "language_model"


class LanguageModel(Protocol):
    """What :mod:`.write_prompts` asks for captions."""

    def answers(self, requests: Sequence[CaptionRequest]) -> list[Answer]:
        """One answer for each of R requests, in their order; each depends on its request alone, but for rounding."""
        ...


@dataclass(frozen=True)
class Sampling:
    """How words are drawn.

    Attributes:
        temperature: the scores' divisor; 0 takes the most likely word always.
        top_p: the most likely words that together have this probability are drawn from.
        max_new_tokens: an answer that has as many ends there.
    """

    temperature: float
    top_p: float
    max_new_tokens: int


class OwnDraws(LogitsProcessor):
    """Turns the largest of each row's scores into a draw by that row's seed.

    The position of the largest of scores with Gumbel noise is a draw from their softmax (Maddison et al. 2014). So a
    greedy ``generate`` samples, and no row depends on the others of its batch.

    Args:
        seeds: R seeds.
    """

    def __init__(self, seeds: Sequence[int]):
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores ``(R, V)`` with noise drawn on the CPU; those of words that are ruled out stay minus infinity."""
        noise = [
            torch.empty(scores.shape[1]).exponential_(generator=own).clamp_(min=1e-30).log()
            for own in self._generators
        ]
        return scores.float() - torch.stack(noise).to(scores.device)


class TransformersModel:
    """A causal language model and its tokenizer; with a chat template it is told, without one it goes on with a text.

    Args:
        network: of ``AutoModelForCausalLM``, on its device.
        tokenizer: its own.
        sampling: how words are drawn.
    """

    def __init__(self, network: Any, tokenizer: Any, sampling: Sampling):
        self.network, self.tokenizer, self.sampling = network, tokenizer, sampling
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)

    @torch.no_grad()
    def answers(self, requests: Sequence[CaptionRequest]) -> list[Answer]:
        """See :class:`LanguageModel`."""
        texts = [self._text(request) for request in requests]
        inputs = self.tokenizer(
            texts,
            # a chat template writes those that it wants
            add_special_tokens=not self._is_told,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        ids = inputs["input_ids"].to(self.network.device)
        sampling = self.sampling
        processors = LogitsProcessorList()
        if sampling.temperature > 0:
            processors.append(TemperatureLogitsWarper(float(sampling.temperature)))
            processors.append(TopPLogitsWarper(sampling.top_p))
            processors.append(OwnDraws([request.seed for request in requests]))
        written = self.network.generate(
            input_ids=ids,
            attention_mask=inputs["attention_mask"].to(self.network.device),
            logits_processor=processors,
            # the draws are in the scores already
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=sampling.max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            **({} if self._is_told else {"stop_strings": ["\n"], "tokenizer": self.tokenizer}),
        )
        return [self._answer(row) for row in written[:, ids.shape[1] :].tolist()]

    @property
    def _is_told(self) -> bool:
        return self.tokenizer.chat_template is not None

    def _text(self, request: CaptionRequest) -> str:
        if not self._is_told:
            return request.beginning()
        message = {"role": "user", "content": request.instruction()}
        # templates of models that think aloud read the last one; the others ignore it
        return self.tokenizer.apply_chat_template(
            [message], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )

    def _answer(self, ids: list[int]) -> Answer:
        own = self.network.generation_config.eos_token_id
        ends = {*(own if isinstance(own, list) else [own]), self.tokenizer.eos_token_id} - {None}
        end = next((place for place, token in enumerate(ids) if token in ends), None)
        text = self.tokenizer.decode(ids if end is None else ids[:end], skip_special_tokens=True)
        if self._is_told:
            return Answer(text, end is not None)
        # a blank after the colon may be a line's end, too
        line, newline, _ = text.lstrip().partition("\n")
        return Answer(line, end is not None or bool(newline))


def load_language_model(
    name: str, revision: str | None, sampling: Sampling, device: str, *, trust_remote_code: bool = False
) -> TransformersModel:
    """Load a text-generation model, safetensors only, in its own precision on a GPU and in float32 on the CPU.

    Args:
        name: a folder, or a Hub id without its revision.
        revision: on the Hub.
        sampling: how words are drawn.
        device: where it runs.
        trust_remote_code: run code that comes with the model.

    Raises:
        ValueError: no model there, one that needs code of its own, or one that writes no text.
    """
    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config: Any = AutoConfig.from_pretrained(name, **source)
        check_writes_text(config, name)
        dtype = "auto" if device.startswith("cuda") else torch.float32
        network: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, use_safetensors=True, **source)
        tokenizer = AutoTokenizer.from_pretrained(name, **source)
    except (OSError, ValueError, KeyError, ImportError) as error:
        if str(error).startswith(_SETTING):
            raise
        line = loading_fault(error, name, "AutoModelForCausalLM", revision=revision)
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{_SETTING} is {name!r}, which brings code of its own; read it, and give --trust-remote-code if you"
                " want it run."
            ) from error
        raise ValueError(f"{_SETTING} is {name!r}, which could not be loaded: {line}") from error
    network.eval().to(device)
    return TransformersModel(network, tokenizer, sampling)


def check_writes_text(config: Any, name: str) -> None:
    """Raise ``ValueError`` unless a model of that configuration was made to write text.

    The architecture counts that the configuration names: transformers would load BERT for this task, too.
    """
    made_for = list(getattr(config, "architectures", None) or [])
    has_own_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    writes = not made_for or set(made_for) & set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if has_own_code or (writes and type(config) in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING):
        return
    what = made_for[0] if made_for else f"a {config.model_type}"
    raise ValueError(
        f"{_SETTING} is {name!r}, {what}, which is no text-generation model; give one of transformers'"
        " AutoModelForCausalLM, such as an instruction-tuned Qwen, Llama, Gemma or SmolLM."
    )


def split_revision(name: str) -> tuple[str, str | None]:
    """A Hub id and its revision of ``id@revision``; a folder's path is taken as it is."""
    folder = Path(name).expanduser()
    if folder.exists():
        return str(folder), None
    repository, _, revision = name.partition("@")
    return repository, revision or None
