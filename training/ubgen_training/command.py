"""What the training scripts share: exit codes, what is checked first, and what is written once training is over."""

import gc
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Imported before there is a process group: its functions have the group as a default argument, and imported later, by
# DistributedDataParallel, they would hold the group, and with it the threads of gloo, to the interpreter's end.
import torch.distributed.nn.functional  # noqa: F401
from torch import distributed

from ubgen_pipeline.commands.console import say_error
from ubgen_pipeline.commands.settings_parser import parse_settings, run_command
from ubgen_pipeline.files.folder_lock import writing_into
from ubgen_pipeline.files.places import check_is_local


def run_training(
    train: Callable[[Any], Path],
    config_class: type,
    argv: Sequence[str] | None,
    *,
    prog: str,
    description: str | None,
    trained: str = "LoRA",
) -> int:
    """Parse ``argv`` and train; returns the exit code: 2 for a bad setting, 1 for a number that is not finite.

    Where several processes trained, they are independent of each other afterwards (:func:`end_process_group`), unless
    training failed: the others may then still be at work, and ending the group would wait for them.

    Args:
        trained: what the last line says was saved.
    """

    def body(argv: Sequence[str]) -> int:
        config = parse_settings(config_class, argv, prog=prog, description=description)
        check_is_local(config.output_dir, "output_dir")
        try:
            with writing_into(str(config.output_dir), int(os.environ.get("RANK", 0))):
                print(f"{trained} saved in {train(config)}")
        except FloatingPointError as error:
            say_error(error)
            return 1
        end_process_group()
        return 0

    return run_command(body, argv)


def end_process_group() -> None:
    """End the process group, where there is one: the last that a script does whose training succeeded.

    Without it the threads of gloo live on until the interpreter is taken down. One that then drops the tensors of the
    last collective operation needs the interpreter's lock, which is not to be had any more, and the process ends with
    SIGABRT ("terminate called without an active exception") and exit code -6. The threads end with the last reference
    to the group, and a model in DistributedDataParallel holds one: let go of the trainer before.
    """
    if distributed.is_available() and distributed.is_initialized():
        # a trainer is part of circles
        gc.collect()
        distributed.destroy_process_group()
        gc.collect()


def check_writable(folder: str) -> None:
    """Raise ``ValueError`` unless ``folder`` exists, or can be made, and takes files."""
    check_is_local(folder, "output_dir")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"output_dir {folder!r} cannot be written ({error.strerror or error}); choose another folder."
        ) from error
