"""Class lists that installed libraries hold, read from their files without importing them (that would load torch)."""

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any

BUILT_IN_LISTS = {
    "imagenet1k": "ImageNet-1k: names from open_clip, ids and definitions from timm",
    "imagenet100": "the hundred classes of mini-ImageNet (Vinyals et al. 2016), the hundred that timm lists;"
    " other papers mean other subsets by ImageNet-100, which no installed library holds",
    "voc": "the twenty classes of PASCAL VOC, from torchvision",
    "coco": "the eighty classes of COCO, from torchvision",
}


def built_in_name(source: str) -> str | None:
    """The list that ``source`` names, in whatever case and with or without hyphens; None where it names none."""
    name = source.lower().replace("-", "").replace("_", "")
    return name if name in BUILT_IN_LISTS else None


def built_in_entries(name: str) -> list[tuple[str, str | None, str | None]]:
    """(name, id or None, definition or None) of each class of a list in :data:`BUILT_IN_LISTS`, in the list's order.

    Raises:
        ValueError: the library that holds the list is not installed, or holds it no longer.
    """
    if name in ("voc", "coco"):
        names = _constant("torchvision", "models/_meta.py", f"_{name.upper()}_CATEGORIES")
        # COCO's ids have gaps, which torchvision fills with N/A
        return [(item, None, None) for item in names if item not in ("__background__", "N/A")]
    wnids = library_file("timm", "data/_info/imagenet_synsets.txt").split()
    names = _constant("open_clip", "zero_shot_metadata.py", "IMAGENET_CLASSNAMES")
    lines = library_file("timm", "data/_info/imagenet_synset_to_definition.txt").splitlines()
    definitions = dict(line.split("\t", 1) for line in lines if "\t" in line)
    name_of = dict(zip(wnids, names, strict=True))
    if name == "imagenet100":
        wnids = library_file("timm", "data/_info/mini_imagenet_synsets.txt").split()
    return [(name_of[wnid], wnid, definitions.get(wnid)) for wnid in wnids]


def library_file(library: str, path: str) -> str:
    spec = find_spec(library)
    folder = next(iter(spec.submodule_search_locations or []), None) if spec else None
    file = Path(folder or "", path)
    if folder is None or not file.is_file():
        raise ValueError(f"the built-in list needs {library} with its file {path}; install it, or give a class file.")
    return file.read_text(encoding="utf-8")


def _constant(library: str, path: str, name: str) -> Any:
    for node in ast.parse(library_file(library, path)).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(item, ast.Name) and item.id == name for item in node.targets
        ):
            return ast.literal_eval(node.value)
    raise ValueError(f"the built-in list needs {name}, which the installed {library} lacks; give a class file.")
