"""Conditioning of prompts: encoded once, remembered within a bounded memory, and kept on the disk where asked for."""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ..call_arguments import TextSettings
from ..conditioning import Conditioning
from ..files.tensor_files import save_tensors
from ..models.fingerprints import fingerprint
from ..models.loading import resolve_model
from ..models.loras import Lora
from .placement import text_encoders_on

if TYPE_CHECKING:
    from ..family import Family

# whose code the conditioning of a prompt depends on
_LIBRARIES = ("ubgen", "torch", "transformers", "tokenizers", "diffusers", "peft")
# what a cache holds in memory
MAX_BYTES = 2 << 30


class PromptCache:
    """Encoded prompts. The prompt that was not used for the longest time is forgotten first.

    Several threads may share a cache. A prompt is encoded alone: in a batch of another size or content it would round
    differently, and an image would depend on which prompts came before it.

    Args:
        num_chunks: tokenizer lengths of every prompt, where word weights are read; None where they are not.
        max_bytes: of what is remembered.
        text_device: where the text encoders work that otherwise rest on the CPU; what they give is remembered there,
            too. None: they stay where they are.
        folder: where what is encoded is kept; None keeps nothing.
    """

    def __init__(
        self,
        num_chunks: int | None = None,
        *,
        max_bytes: int = MAX_BYTES,
        text_device: torch.device | str | None = None,
        folder: "PromptFolder | None" = None,
    ):
        self._text, self._max_bytes = TextSettings(num_chunks is not None, num_chunks), max_bytes
        self._text_device, self._folder = text_device, folder
        self._encoded: OrderedDict[tuple[str, bool], Conditioning] = OrderedDict()
        self._num_bytes = 0
        # the prompts to come, and each one's place among them
        self._coming: list[str] = []
        self._places: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def moves_encoders(self) -> bool:
        """Whether the text encoders are moved for what must be encoded."""
        return self._text_device is not None

    def expect(self, prompts: Sequence[str]) -> None:
        """Say which prompts come, in their order: text encoders that must be moved encode many of them at a time."""
        self._coming = list(dict.fromkeys(prompts))
        self._places = {prompt: place for place, prompt in enumerate(self._coming)}

    @torch.no_grad()
    def conditioning(self, pipeline: "Family", prompts: Sequence[str], *, negative: bool = False) -> "Conditioning":
        """B rows of B prompts, in the text encoder's dtype and on the device that draws; ``negative``: guided away
        from."""
        batch = pipeline.batch(self.rows(pipeline, prompts, negative=negative))
        return batch.map(lambda tensor: tensor.to(pipeline._execution_device))

    @torch.no_grad()
    def rows(self, pipeline: "Family", prompts: Sequence[str], *, negative: bool = False) -> "list[Conditioning]":
        """The record of each of the prompts, as :meth:`.Family.encode` gives them."""
        with self._lock:
            return [self._of(pipeline, prompt, negative) for prompt in prompts]

    def is_at_hand(self, prompt: str, *, negative: bool = False) -> bool:
        """Whether the prompt need not be encoded, because it is remembered or kept on the disk."""
        with self._lock:
            key = prompt, negative
            return key in self._encoded or (self._folder is not None and self._folder.holds(key, self._text))

    def newest(self) -> "Conditioning | None":
        """The row of the prompt that was used last; None where none is remembered."""
        with self._lock:
            return next((row for (_, is_negative), row in reversed(self._encoded.items()) if not is_negative), None)

    def _of(self, pipeline: "Family", prompt: str, negative: bool) -> "Conditioning":
        key = prompt, negative
        if key not in self._encoded and not self._read(key):
            with text_encoders_on(pipeline, self._text_device):
                self._encode(pipeline, key)
                if self.moves_encoders and not negative:
                    for other in self._next(prompt):
                        if (other, False) not in self._encoded and not self._read((other, False)):
                            self._encode(pipeline, (other, False))
        self._encoded.move_to_end(key)
        return self._encoded[key]

    def _next(self, prompt: str) -> list[str]:
        """The prompts to come after that one, as many as half of the memory holds."""
        if prompt not in self._places:
            return []
        first = self._places[prompt] + 1
        return self._coming[first : first + self._max_bytes // (2 * _num_bytes(self._encoded[prompt, False]))]

    def _encode(self, pipeline: "Family", key: tuple[str, bool]) -> None:
        prompt, negative = key
        (row,) = pipeline.encode([prompt], replace(self._text, negative=negative))
        if self._folder is not None:
            self._folder.write(key, self._text, row)
        self._remember(key, row if self._text_device is None else row.map(torch.Tensor.cpu))

    def _read(self, key: tuple[str, bool]) -> bool:
        """Whether it was kept on the disk."""
        row = None if self._folder is None else self._folder.read(key, self._text)
        if row is not None:
            self._remember(key, row)
        return row is not None

    def _remember(self, key: tuple[str, bool], row: "Conditioning") -> None:
        self._encoded[key] = row
        self._num_bytes += _num_bytes(row)
        while self._num_bytes > self._max_bytes and len(self._encoded) > 1:
            self._num_bytes -= _num_bytes(self._encoded.popitem(last=False)[1])


class PromptFolder:
    """A folder with the conditioning of prompts, a file for each, of any number of models.

    Args:
        folder: made where it is missing.
        made_by: all that the numbers depend on beside the prompt: the model, precision, device and libraries.

    Raises:
        ValueError: something else than a folder is there.
    """

    def __init__(self, folder: str | Path, made_by: Mapping[str, Any]):
        self._folder, self._made_by = Path(folder).expanduser(), dict(made_by)
        if self._folder.exists() and not self._folder.is_dir():
            raise ValueError(f"prompt_features is {str(folder)!r}, which is a file; give a folder, or a new name.")

    def read(self, key: tuple[str, bool], text: TextSettings) -> Conditioning | None:
        """What was kept of a prompt, on the CPU; None where nothing was, or its file is damaged."""
        try:
            return Conditioning(load_file(self._file(key, text)))
        except (OSError, SafetensorError):
            return None

    def holds(self, key: tuple[str, bool], text: TextSettings) -> bool:
        """Whether :meth:`read` would find something; the header tells, which names the length of the file."""
        try:
            with safe_open(self._file(key, text), "pt"):
                return True
        except (OSError, SafetensorError):
            return False

    def write(self, key: tuple[str, bool], text: TextSettings, row: Conditioning) -> None:
        file = self._file(key, text)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_tensors({name: row[name].cpu().contiguous() for name in row.tensors}, file)

    def _file(self, key: tuple[str, bool], text: TextSettings) -> Path:
        prompt, negative = key
        stated = [self._made_by, prompt, negative, text.weighted, text.num_chunks]
        name = hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()
        # in a folder of a thousand classes listings stay short
        return self._folder / name[:2] / f"{name}.safetensors"


def made_by(
    model: str,
    variant: str | None = None,
    model_revision: str | None = None,
    *,
    dtype: str,
    device: str,
    loras: Sequence[Any] = (None,),
    embeddings: Sequence[tuple[str, str | None]] = (),
    quantization: str = "none",
) -> dict[str, Any]:
    """All that the conditioning of a prompt depends on beside the prompt, for :class:`PromptFolder`.

    Args:
        model, variant: of which the bytes count; a Hub id stands for itself.
        model_revision: commit on the Hub.
        dtype: of the text encoders, by torch's name.
        device: that they work on; of a GPU what counts is which kind it is.
        loras: JSON values that tell the LoRAs, which may change the text encoders, too.
        embeddings: files and tokens of textual inversions.
        quantization: of the text encoders' weights.
    """
    return {
        "model": fingerprint(resolve_model(model), variant),
        "model_revision": model_revision,
        "loras": list(loras),
        "embeddings": [[fingerprint(file), token] for file, token in embeddings],
        "dtype": dtype,
        "quantization": quantization,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "versions": {name: version(name) for name in _LIBRARIES},
    }


def lora_facts(loras: Sequence[Lora | None]) -> list[Any]:
    """What tells those LoRAs from others, for :func:`made_by`; None for one that is not there."""
    return [None if lora is None else [fingerprint(lora.source), lora.revision, lora.strength] for lora in loras]


def _num_bytes(row: "Conditioning") -> int:
    return sum(row[name].nbytes for name in row.tensors)
