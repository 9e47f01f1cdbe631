"""Textual inversion: words of one's own, as learned vectors of the text encoder (Gal et al. 2022).

Shapes: n vectors of one token, D width of the text encoder's input.
"""

import string
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ..files.tensor_files import save_tensors

EMBEDDING_FILE = "learned_embeds.safetensors"
# other tools write these as pickles; torch's restricted loader reads tensors out of them and runs nothing
_OLD_SUFFIXES = (".pt", ".bin", ".pth")


def read_embedding(source: str | Path) -> tuple[str | None, torch.Tensor]:
    """The token that a file names, or None, and its vectors ``(n, D)`` float32.

    Read are diffusers' form (token to tensor), AUTOMATIC1111's (``string_to_param``) and ``emb_params``; as
    safetensors, or as ``.pt`` or ``.bin`` where torch's restricted loader takes the file.

    Args:
        source: a file, or a folder with ``learned_embeds.safetensors``.

    Raises:
        ValueError: no file there, a pickle that holds more than tensors, or no embedding in it.
    """
    file = Path(source).expanduser()
    file = file / EMBEDDING_FILE if file.is_dir() else file
    if not file.is_file():
        raise ValueError(f"embedding is {str(source)!r}, which is no file; give a .safetensors file or its folder.")
    try:
        if file.suffix in _OLD_SUFFIXES:
            state: Any = torch.load(file, map_location="cpu", weights_only=True)
        else:
            state = load_file(file)
    # files that are refused, and files of another kind, raise errors of many kinds
    except Exception as error:
        reason = "it may run code" if file.suffix in _OLD_SUFFIXES else "it is no safetensors file"
        raise ValueError(
            f"embedding is {str(source)!r}, which was not read: {reason}; convert it to safetensors if you trust it."
        ) from error
    token, vectors = _find_vectors(state)
    if not isinstance(vectors, torch.Tensor) or vectors.ndim not in (1, 2) or not vectors.is_floating_point():
        raise ValueError(f"embedding is {str(source)!r}, which holds no embedding of one token; give one that does.")
    return token, vectors.detach().float().reshape(-1, vectors.shape[-1])


def split_embedding(entry: str) -> tuple[str, str | None]:
    """File and token of ``FILE=TOKEN``; the token is None in ``FILE``, which may itself hold an equals sign."""
    file, sign, token = entry.rpartition("=")
    if not sign or Path(entry).expanduser().exists():
        return entry, None
    return file, token


def load_embedding(pipeline: Any, source: str | Path, token: str | None = None) -> str:
    """Teach the pipeline a token; returns it. A token of n vectors takes n places of a prompt.

    Args:
        pipeline: of Stable Diffusion 1.x or 2.x.
        source: see :func:`read_embedding`.
        token: what to write in prompts; None takes the name in the file.

    Raises:
        ValueError: as :func:`read_embedding`; or the token is missing, is a word already, or is of another width.
    """
    named, vectors = read_embedding(source)
    token = token or named
    if token is None:
        raise ValueError(f"embedding is {str(source)!r}, which names no token; give FILE=TOKEN.")
    add_embedding(pipeline, token, vectors)
    return token


def add_embedding(pipeline: Any, token: str, vectors: torch.Tensor) -> None:
    """Add a token with ``vectors (n, D)`` to tokenizer and text encoder.

    Raises:
        ValueError: the token is a word already, or holds blanks, or the width is not the text encoder's.
    """
    (encoder,) = pipeline.text_networks.values()
    width = encoder.get_input_embeddings().weight.shape[1]
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise ValueError(
            f"the embedding of token {token!r} has shape {tuple(vectors.shape)}; this model's text encoder takes"
            f" vectors {width} wide: use the model it was made for."
        )
    check_token(token, pipeline.tokenizer)
    pipeline.load_textual_inversion({token: vectors.to(encoder.dtype)}, token=token)


def check_token(token: str, tokenizer: Any) -> None:
    """Raise ``ValueError`` unless the token can be added: no blanks in it, and no word of the vocabulary."""
    if not token or any(letter in string.whitespace for letter in token):
        raise ValueError(f"token is {token!r}; give a word without blanks, such as <frame>.")
    if token in tokenizer.get_vocab() or f"{token}</w>" in tokenizer.get_vocab():
        raise ValueError(f"token is {token!r}, which the model knows already; give another, such as <{token}>.")


def save_embedding(token: str, vectors: torch.Tensor, folder: str | Path) -> Path:
    """Write ``vectors (n, D)`` as plain diffusers' ``load_textual_inversion`` reads them; returns the file."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors({token: vectors.detach().cpu().float().contiguous()}, folder / EMBEDDING_FILE)
    return folder / EMBEDDING_FILE


def _find_vectors(state: Any) -> tuple[str | None, Any]:
    if not isinstance(state, dict) or not state:
        return None, None
    if "string_to_param" in state:
        parameters = state["string_to_param"]
        vectors = next(iter(parameters.values())) if isinstance(parameters, dict) and parameters else None
        return state.get("name") if isinstance(state.get("name"), str) else None, vectors
    if "emb_params" in state:
        return None, state["emb_params"]
    if len(state) == 1:
        token, vectors = next(iter(state.items()))
        return str(token), vectors
    return None, None
