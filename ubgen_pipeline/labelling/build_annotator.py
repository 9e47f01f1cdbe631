"""The annotator for a model's name: which of transformers' models it is, and what it calls the dataset's classes.

Shapes: M classes of the model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForMaskGeneration,
    AutoModelForObjectDetection,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
)
from transformers.models.auto import modeling_auto

from ..models.devices import usable_device
from ..models.loading_lock import one_at_a_time
from ..models.model_files import loading_fault
from ..models.segmenter import BUILT_NAMES, load_segmenter, read_config
from .annotators import (
    Annotator,
    BoxAnnotator,
    MaskFromBoxes,
    PixelAnnotator,
    transformers_scores,
)
from .phrase_boxes import MODEL_TYPES, PhraseBoxes
from .phrase_masks import NETWORKS, PROCESSOR, PhraseMaskAnnotator
from .phrases import read_phrases
from .settings import AnnotateSettings


@one_at_a_time
def build_annotator(
    model: str,
    class_names: Sequence[str],
    class_map: Mapping[str, str] | None = None,
    *,
    mask_model: str | None = None,
    threshold: float = 0.5,
    min_area: float = 0.005,
    objects: str = "regions",
    negative_phrases: Sequence[str] = (),
    device: str = "cpu",
) -> Annotator:
    """The annotator for that model.

    Args:
        model: folder or Hub id: a semantic or universal segmenter (SegFormer, Mask2Former …), a detector (DETR, YOLOS
            …), one that is told its classes (OWLv2, Grounding DINO, the segmenter SAM 3), or a segmenter trained here.
        class_names: of the dataset, in label order.
        class_map: the dataset's class for a class of the model's; names that agree need no entry.
        mask_model: SAM or its like, which turns a detector's boxes into masks.
        threshold: least probability of a pixel's class (others are ignored) or of a box (others are dropped).
        min_area: least share of the image that an object covers.
        negative_phrases: for models that are told their classes, what to look for and leave out: ``PHRASE=CLASS``, or
            ``PHRASE`` for all classes.
        objects: what of a segmenter's mask is one object, see :data:`.settings.OBJECTS`.
        device: where it runs.

    Raises:
        ValueError: a model that cannot be loaded or does not label, classes that do not map, or objects that the model
            does not tell apart.
    """
    class_map = dict(class_map or {})
    if foreign := [target for target in class_map.values() if target not in class_names]:
        raise ValueError(f"class_map leads to {foreign[0]!r}, which is none of the dataset's classes; leave it out.")
    if read_config(model).get("model_type") in BUILT_NAMES:
        _check_negative(model, negative_phrases)
        segmenter = load_segmenter(model).to(device)
        table = class_table(["background", *segmenter.class_names], class_names, class_map, model)
        if objects == "queries":
            raise _no_queries(model)
        return PixelAnnotator(segmenter, segmenter.class_scores, None, table, threshold, min_area, device, objects)
    try:
        config: Any = AutoConfig.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model is {model!r}, which could not be loaded: {_first_line(error)}") from error
    if config.model_type in NETWORKS:
        if objects != "regions":
            raise ValueError(f"objects is {objects!r}, but model {model!r} finds instances itself; leave it out.")
        network = _load_part(_class_of_transformers(NETWORKS[config.model_type], model), model, device)
        processor = _load_part(_class_of_transformers(PROCESSOR, model), model)
        phrases = read_phrases(class_names, class_map, negative_phrases)
        return PhraseMaskAnnotator(network, processor, phrases, threshold, min_area, device)
    loader = _loader_for(config, model)
    if loader is not AutoModelForZeroShotObjectDetection:
        _check_negative(model, negative_phrases)
    if objects == "queries" and loader is not AutoModelForUniversalSegmentation:
        raise _no_queries(model)
    network = _load_part(loader, model, device)
    if loader in (AutoModelForObjectDetection, AutoModelForZeroShotObjectDetection):
        if objects != "regions":
            raise ValueError(
                f"objects is {objects!r}, but model {model!r} is a detector, whose boxes are; leave it out."
            )
        masks = None if mask_model is None else _mask_from_boxes(mask_model, device)
    if loader is AutoModelForZeroShotObjectDetection:
        phrases = read_phrases(class_names, class_map, negative_phrases)
        processor = _load_part(AutoProcessor, model)
        if config.model_type in MODEL_TYPES:
            processor = PhraseBoxes(network, processor, phrases.asked, device)
        return BoxAnnotator(network, processor, phrases, phrases.table, masks, threshold, min_area, device)
    names = [config.id2label[number] for number in range(config.num_labels)]
    table = class_table(names, class_names, class_map, model)
    if loader is AutoModelForObjectDetection:
        return BoxAnnotator(
            network, _load_part(AutoImageProcessor, model), None, table, masks, threshold, min_area, device
        )
    processor = _load_part(AutoImageProcessor, model) if _has_processor(model) else None
    return PixelAnnotator(network, transformers_scores, processor, table, threshold, min_area, device, objects)


def annotator_of(settings: AnnotateSettings, class_names: Sequence[str], class_map: Mapping[str, str]) -> Annotator:
    """The annotator that the settings ask for, loaded.

    Raises:
        ValueError: see :func:`build_annotator`.
    """
    return build_annotator(
        str(settings.model),
        class_names,
        class_map,
        mask_model=settings.mask_model,
        threshold=settings.threshold,
        min_area=settings.min_area,
        objects=settings.objects,
        negative_phrases=settings.negative_phrases or (),
        device=usable_device(settings.device),
    )


def _no_queries(model: str) -> ValueError:
    return ValueError(
        f"objects is 'queries', which model {model!r} has none of; give regions or classes, or a universal segmenter"
        " such as Mask2Former."
    )


def _check_negative(model: str, negative_phrases: Sequence[str]) -> None:
    if negative_phrases:
        raise ValueError(
            f"negative_phrases holds {negative_phrases[0]!r}, but model {model!r} is not told what to look for;"
            " leave it out, or give OWLv2, Grounding DINO or SAM 3."
        )


def _class_of_transformers(name: str, model: str) -> Any:
    found = getattr(transformers, name, None)
    if found is None:
        raise ValueError(
            f"model is {model!r}, for which transformers {transformers.__version__} has no {name}; install a newer."
        )
    return found


def _loader_for(config: Any, model: str) -> Any:
    """The class of transformers that loads a model of that configuration, if it labels images."""
    for mapping, loader in (
        (modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING, AutoModelForSemanticSegmentation),
        (modeling_auto.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING, AutoModelForUniversalSegmentation),
        (modeling_auto.MODEL_FOR_OBJECT_DETECTION_MAPPING, AutoModelForObjectDetection),
        (modeling_auto.MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING, AutoModelForZeroShotObjectDetection),
    ):
        if type(config) in mapping:
            return loader
    raise ValueError(
        f"model is {model!r}, a {config.model_type}, which neither segments nor detects; give a segmenter or a"
        " detector of transformers."
    )


def class_table(
    model_classes: Sequence[str], class_names: Sequence[str], class_map: Mapping[str, str], model: str
) -> np.ndarray:
    """For each of the model's M classes, 1 + the label it stands for, or 0: ``(M,)`` int64.

    Raises:
        ValueError: the map names a class the model lacks, or none of the model's classes is one of the dataset's.
    """
    if unknown := set(class_map) - set(model_classes):
        raise ValueError(
            f"class_map names {sorted(unknown)[0]!r}, which model {model!r} lacks; it has"
            f" {', '.join(model_classes[:20])}."
        )
    targets = [class_map.get(name, name) for name in model_classes]
    table = np.array([1 + list(class_names).index(name) if name in class_names else 0 for name in targets])
    if not table.any():
        raise ValueError(
            f"none of the classes of model {model!r} ({', '.join(model_classes[:10])} …) is one of the dataset's"
            f" ({', '.join(class_names[:10])} …); map them with class_map MODEL_CLASS=CLASS."
        )
    return table


def _mask_from_boxes(model: str, device: str) -> MaskFromBoxes:
    network = _load_part(AutoModelForMaskGeneration, model, device)
    return MaskFromBoxes(network, _load_part(AutoProcessor, model), device)


def _load_part(loader: Any, model: str, device: str | None = None) -> Any:
    """A network on ``device``, ready to run; without one, a processor."""
    try:
        if device is None:
            return loader.from_pretrained(model)
        return loader.from_pretrained(model, use_safetensors=True).eval().to(device)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = _first_line(error) if device is None else loading_fault(error, model, loader.__name__)
        raise ValueError(f"model is {model!r}, which could not be loaded: {reason}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _has_processor(model: str) -> bool:
    # a segmenter trained here is saved without one: it takes images at their own size
    folder = Path(model).expanduser()
    return not folder.is_dir() or (folder / "preprocessor_config.json").is_file()
