"""Which files of a model's folder are loaded: of each part its settings and one set of weights. No torch.

Folders hold several sets: a variant (``model.fp16.safetensors``) beside or instead of the plain one, each in one file
or in shards with an index, and maybe pickled ones, which are never loaded.
"""

import json
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

INDEX = "model_index.json"
# settings that diffusers and transformers read beside the weights, and the files of tokenizers and processors
SETTINGS_FILES = frozenset(
    (
        *("config.json", "scheduler_config.json", "preprocessor_config.json", "processor_config.json"),
        *("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json"),
        *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model"),
        *("chat_template.json", "chat_template.jinja", "open_clip_config.json"),
    )
)
_WEIGHTS = re.compile(
    r"(?P<stem>diffusion_pytorch_model|model)"
    r"(\.(?P<before>(?!safetensors\b)\w+))?(?P<shard>-\d+-of-\d+)?(\.(?P<after>(?!safetensors\b)\w+))?"
    r"\.safetensors(?P<index>\.index(\.(?P<last>\w+))?\.json)?"
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
# of several variants, which is taken where the plain weights are missing
_PREFERRED = ("fp16", "bf16")


def weight_sets(names: Iterable[str]) -> dict[str | None, list[str]]:
    """File names of one folder's weights by variant, None for the plain ones; only those that would be loaded."""
    found: dict[str | None, list[tuple[re.Match[str], str]]] = {}
    for name in sorted(names):
        if match := _WEIGHTS.fullmatch(name):
            variant = match["before"] or match["after"] or match["last"]
            found.setdefault(variant, []).append((match, name))
    sets = {}
    for variant, files in found.items():
        whole = [name for match, name in files if not match["shard"] and not match["index"]]
        sharded = [name for match, name in files if match["shard"] or match["index"]]
        # where both are there, diffusers reads the shards, and transformers the whole file
        of_diffusers = files[0][0]["stem"] == "diffusion_pytorch_model"
        has_index = any(match["index"] for match, _ in files)
        sets[variant] = sharded if sharded and has_index and (of_diffusers or not whole) else whole or sharded
    return sets


def chosen_variant(names: Collection[str], parts: Sequence[str], asked: str | None = None) -> str | None:
    """The variant to load a model by, None for its plain weights.

    Args:
        names: of the model's files, from its folder on.
        parts: folders in it.
        asked: the user's choice; None takes the plain weights, or where a part has none the variant that is there.

    Raises:
        ValueError: no such variant, none that all parts have, or pickled weights only; the text follows the model's
            name.
    """
    by_part = {part: _names_in(names, part) for part in parts}
    sets = {part: weight_sets(files) for part, files in by_part.items()}
    for part, files in by_part.items():
        pickles = [name for name in files if name.endswith(_PICKLES)]
        if not sets[part] and pickles:
            raise ValueError(
                f"whose {part} holds pickled weights only ({pickles[0]}), which are not loaded, since loading them can"
                " run code of whoever made them. Where you trust them, write them anew with"
                " `DiffusionPipeline.from_pretrained(MODEL, use_safetensors=False).save_pretrained(FOLDER)`, and give"
                " that folder"
            )
    there = sorted({variant for part in sets.values() for variant in part if variant is not None})
    if asked is not None:
        without = [part for part, found in sets.items() if found and asked not in found and None not in found]
        if asked not in there or without:
            held = f"there are {', '.join(there)}" if there else "there are none: leave it out"
            where = f" in {without[0]}" if without and asked in there else ""
            raise ValueError(f"of which there is no variant {asked!r}{where}; {held}")
        return asked
    without_plain = [found for found in sets.values() if found and None not in found]
    if not without_plain:
        return None
    common = set.intersection(*(set(found) for found in without_plain))
    for variant in (*_PREFERRED, *there):
        if variant in common:
            return variant
    raise ValueError(f"whose parts hold weights of different variants ({', '.join(there)}) and no plain ones")


def loading_fault(
    error: Exception, source: str, loader: str, *, revision: str | None = None, subfolder: str | None = None
) -> str:
    """Why a model of transformers could not be loaded: the error's first line, or that its weights are all pickled.

    Args:
        error: that ``loader`` raised.
        source: folder or Hub id.
        loader: the class of transformers, for the way out.
        revision: on the Hub.
        subfolder: of the model's files.
    """
    import httpx2

    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    try:
        folder = Path(source).expanduser()
        if folder.is_dir():
            names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
        else:
            from huggingface_hub import HfApi

            names = HfApi().list_repo_files(source, revision=revision)
    # what has no name on the Hub, or cannot be asked for there: the error itself says so
    except (OSError, ValueError, httpx2.HTTPError):
        return line
    here = _names_in(names, subfolder) if subfolder else [name for name in names if "/" not in name]
    pickles = sorted(name for name in here if name.endswith(_PICKLES) and not name.startswith("training_args"))
    if not pickles or any(name.endswith(".safetensors") for name in here):
        return line
    where = f", subfolder={subfolder!r}" if subfolder else ""
    return (
        f"it holds pickled weights only ({pickles[0]}), which are not loaded, since loading them can run code of"
        f" whoever made them. Where you trust them, write them anew with `{loader}.from_pretrained({source!r}{where},"
        " use_safetensors=False).save_pretrained(FOLDER)`, its processor with them, and give that folder"
    )


def file_names(source: str, revision: str | None = None) -> tuple[list[str], list[str]]:
    """Names of a model's files from its folder on, and of its parts.

    Args:
        source: a folder in diffusers layout, or a Hub id; where the Hub cannot be asked, what is in the cache counts.
        revision: on the Hub.

    Raises:
        OSError: no such model.
    """
    folder = Path(source)
    if not folder.is_dir():
        import httpx2
        from huggingface_hub import HfApi, hf_hub_download
        from huggingface_hub.errors import OfflineModeIsEnabled

        folder = Path(hf_hub_download(source, INDEX, revision=revision)).parent
        try:
            return HfApi().list_repo_files(source, revision=revision), model_parts(folder)
        except (httpx2.TransportError, OfflineModeIsEnabled):
            # in the cache, a snapshot's folder
            pass
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    return names, model_parts(folder)


def model_folder(source: str, revision: str | None = None) -> Path | None:
    """Where a model's files lie: its folder, or of a Hub id that was loaded its snapshot in the cache."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(source, INDEX, revision=revision)
    return Path(file).parent if isinstance(file, str) else None


def missing_part(names: Collection[str], parts: Sequence[str]) -> str | None:
    """Which part has no files, or weights without their configuration, to follow the model's name; None where none.

    A tokenizer without files would be made of an empty vocabulary, without a word.
    """
    for part in parts:
        here = _names_in(names, part)
        if not here:
            return f"which lacks the part {part!r} that its {INDEX} lists; fetch the model anew"
        if "config.json" not in here and weight_sets(here):
            return f"whose part {part!r} has weights and no config.json; fetch the model anew"
    return None


def model_parts(folder: Path) -> list[str]:
    """Names of the parts that a folder's ``model_index.json`` lists."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return [name for name, kind in index.items() if isinstance(kind, list) and not name.startswith("_") and kind[0]]


def loaded_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The files of a model's folder that are loaded, in an order of their own.

    Args:
        folder: in diffusers layout, or with one model of transformers.
        variant: of the weights; a part that has none of that kind is loaded from its plain ones.
    """
    if (folder / INDEX).is_file():
        parts = model_parts(folder)
        files = [folder / INDEX]
    else:
        parts, files = [""], []
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    if variant is None:
        try:
            variant = chosen_variant(names, parts)
        # it does not load: whoever loads it says why
        except ValueError:
            variant = None
    for part in parts:
        here = _names_in(names, part)
        sets = weight_sets(here)
        # weights of names that are neither library's: all there are
        others = [] if sets else sorted(name for name in here if name.endswith(".safetensors"))
        wanted = [*sorted(SETTINGS_FILES.intersection(here)), *sets.get(variant, sets.get(None, others))]
        files += [folder / part / name for name in wanted]
    return files


def _names_in(names: Collection[str], part: str) -> list[str]:
    """Names of the files right in that folder."""
    begin = f"{part}/" if part else ""
    inside = [name.removeprefix(begin) for name in names if name.startswith(begin)]
    return [name for name in inside if "/" not in name]
