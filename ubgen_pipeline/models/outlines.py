"""What is known of a model before its weights are read: its pipeline on torch's ``meta`` device, where networks have
shapes and no numbers."""

import inspect
from importlib import import_module
from typing import Any

import torch
from diffusers.utils import logging

from ..family import Family


def model_outline(pipeline_class: type[Family], source: str, revision: str | None = None) -> Any:
    """The pipeline of a model's configurations, without tokenizers: sizes, guidance and the shapes of all layers are
    those of the model. It draws nothing.

    Args:
        pipeline_class: of the model's family.
        source: folder in diffusers layout, or Hub id.
        revision: on the Hub.

    Returns:
        None where the configurations are not enough, or wrong: loading says of what is wrong more than this could.
    """
    verbosity = logging.get_verbosity()
    # what configurations are warned of is warned of again when the model is loaded
    logging.set_verbosity_error()
    try:
        return _outline(pipeline_class, source, revision)
    # networks' configurations of any kind, from anyone
    except Exception:
        return None
    finally:
        logging.set_verbosity(verbosity)


def _outline(pipeline_class: Any, source: str, revision: str | None) -> Any:
    index = pipeline_class.load_config(source, revision=revision)
    networks = (pipeline_class.denoiser_part, "vae", *pipeline_class.text_encoder_parts)
    arguments: dict[str, Any] = {}
    for name in set(inspect.signature(pipeline_class.__init__).parameters).intersection(index):
        given = index[name]
        is_part = isinstance(given, (list, tuple)) and len(given) == 2 and isinstance(given[0], (str, type(None)))
        if not is_part:
            # numbers and switches of the pipeline itself
            arguments[name] = given
        elif given[0] is not None and name in (*networks, "scheduler"):
            library, class_name = given
            arguments[name] = _part(library, class_name, source, name, revision)
        else:
            arguments[name] = None
    return pipeline_class(**arguments)


def _part(library: str, class_name: str, source: str, name: str, revision: str | None) -> Any:
    """A network without weights, or the scheduler.

    Raises:
        ValueError: it is of another library, which the configuration of a stranger shall not make us import.
    """
    if library not in ("diffusers", "transformers"):
        raise ValueError(f"{name} is of {library!r}")
    kind: Any = getattr(import_module(library), class_name)
    where = {"subfolder": name, "revision": revision}
    if name == "scheduler":
        return kind.from_pretrained(source, **where)
    with torch.device("meta"):
        if library == "transformers":
            return kind._from_config(kind.config_class.from_pretrained(source, **where))
        return kind.from_config(kind.load_config(source, **where))
