"""Safetensors files with the permissions of any other file: the library gives them to their owner alone.

It writes a temporary file of mode 0600 and renames it, so that a file shared by a group, or served by another user,
could not be read.
"""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .whole_files import whole_file

if TYPE_CHECKING:
    import torch


def save_tensors(
    tensors: "Mapping[str, torch.Tensor]", file: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """``safetensors.torch.save_file``, whole or not at all, and with ordinary permissions."""
    from safetensors.torch import save_file

    with whole_file(file) as temporary:
        save_file(dict(tensors), temporary, metadata=None if metadata is None else dict(metadata))
        order_metadata(temporary)


def order_metadata(file: str | Path) -> None:
    """Put the metadata of a safetensors file in alphabetical order, so that equal contents are equal bytes.

    The library writes it in an order of its own that differs from file to file. Only the header is rewritten, in its
    place, and no tensor moves: https://github.com/huggingface/safetensors#format.
    """
    with open(file, "r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            if len(text) <= length:
                stream.seek(8)
                # the header may end in spaces
                stream.write(text.ljust(length))


def give_ordinary_permissions(*files: str | Path) -> None:
    """Set those that a file newly made in the same folder has, by the process's umask and the folder's own rules."""
    for file in map(Path, files):
        # asking for the umask would change it, for all threads; a new file tells the same
        new = file.with_name(f".{file.name}.{os.getpid()}.new")
        try:
            new.touch()
            file.chmod(stat.S_IMODE(new.stat().st_mode))
        finally:
            new.unlink(missing_ok=True)
