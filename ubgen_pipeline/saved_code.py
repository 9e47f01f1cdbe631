"""A pipeline's code beside its weights, so that ``trust_remote_code=True`` reloads the class that was saved."""

import json
import shutil
from pathlib import Path
from typing import Any

from diffusers.utils.dynamic_modules_utils import get_relative_imports


def code_files(pipeline_file: str | Path) -> list[Path]:
    """A pipeline's file and its helpers beside it: what diffusers' loader copies, since the file names them itself."""
    code = Path(pipeline_file)
    return [code.with_name(f"{name}.py") for name in (code.stem, *sorted(get_relative_imports(str(code))))]


def write_code(pipeline_file: str | Path, class_name: str, folder: str | Path, index_name: str) -> None:
    """Copy a pipeline's file and what it imports into a saved model's folder, and name the class in its index.

    Args:
        pipeline_file: of the class; its helpers lie beside it.
        class_name: of the pipeline.
        folder: of the saved model; it may be the pipeline's own.
        index_name: of the index in it, ``model_index.json``.
    """
    code, folder = Path(pipeline_file), Path(folder)
    for source in code_files(code):
        if source.resolve() != (folder / source.name).resolve():
            shutil.copyfile(source, folder / source.name)
    index_file = folder / index_name
    index = json.loads(index_file.read_text())
    index["_class_name"] = [code.stem, class_name]
    index_file.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    # where this model was loaded from is nobody else's business
    for file in (index_file, *folder.glob("*/config.json")):
        config = json.loads(file.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def without_code(index: dict[str, Any], class_name: str) -> dict[str, Any]:
    """The index of a model that was saved so, with ``_class_name`` as diffusers reads one without code."""
    if isinstance(index.get("_class_name"), list) and index["_class_name"][-1] == class_name:
        index["_class_name"] = class_name
    return index
