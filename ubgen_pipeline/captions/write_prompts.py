"""Write prompts that vary in contexts: captions by a language model, or a template that names a value of each.

The file is one with templates, which `ubgen generate --classes` and `--captions` of the trainings read.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ..commands.console import Progress, say, say_warning, table
from ..commands.settings_parser import field_help, parse_settings, run_command
from ..files.places import check_is_local
from ..prompts.class_entries import ClassName
from ..prompts.class_prompts import load_class_names
from ..prompts.word_senses import with_definitions
from ..sample_seeds import sample_seed
from .caption_checks import NEAR_DUPLICATE, REASONS, Answer, Caption, content_words, is_near_duplicate, read_caption
from .caption_file import CaptionFile, digest_of, digest_of_model
from .caption_requests import NUMBER, CaptionRequest, caption_request, parse_contexts
from .context_templates import context_templates

if TYPE_CHECKING:
    from .language_model import LanguageModel

# settings that have no effect without a language model
_MODEL_SETTINGS = (
    "attempts", "max_similarity", "seed", "temperature", "top_p", "max_new_tokens", "batch_size", "device",
    "trust_remote_code",
)  # fmt: skip
# how many classes the table shows
_SHOWN_CLASSES = 20


@dataclass(frozen=True)
class WritePromptsSettings:
    """Settings of ``ubgen write-prompts``."""

    language_model: str | None = field_help(
        "text-generation model of transformers: a folder, a Hub id, or id@revision; a template with the contexts is"
        " written, if not given",
        None,
    )
    output: str | None = field_help("file to write: .yaml or .json; a run that was stopped goes on with it", None)
    class_names: list[str] | None = field_help("names of the classes", None)
    classes: str | None = field_help("class file, or a built-in list: imagenet1k, imagenet100, voc, coco", None)
    captions_per_class: int | None = field_help(
        "captions of each class; if not given, 20 of a language model, and every combination of contexts without one",
        None,
    )
    contexts: list[str] | None = field_help(
        "what the captions vary in: place, light, view, number, style (all five, if not given), NAME=VALUE|VALUE, or"
        " none",
        None,
    )
    definitions: bool = field_help("tell the model each class's definition, WordNet's where the file has none", False)
    attempts: int = field_help("answers that a caption may take, until one is kept", 4)
    max_similarity: float = field_help("share of words in common beyond which two captions are near-duplicates", 0.7)
    seed: int = field_help("decides on settings and answers", 0)
    temperature: float = field_help("of the answers; 0 takes the likeliest word always", 1.0)
    top_p: float = field_help("words are drawn from the likeliest that have this probability together", 0.95)
    max_new_tokens: int = field_help("longest answer, in tokens", 96)
    batch_size: int = field_help("answers written together", 16)
    device: str | None = field_help("cpu, cuda, …; CUDA where there is one, if not given", None)
    trust_remote_code: bool = field_help("run code that comes with the model", False)

    def __post_init__(self) -> None:
        if not self.output:
            raise ValueError("output is missing; give it.")
        if self.language_model is None:
            defaults = {item.name: item.default for item in fields(self)}
            given = [name for name in _MODEL_SETTINGS if getattr(self, name) != defaults[name]]
            if given:
                raise ValueError(f"{given[0]} is given, which only a language_model reads; give one, or leave it out.")
        check_is_local(self.output, "output")
        if (self.classes is None) == (self.class_names is None):
            raise ValueError("give the classes either by class_names or by classes, a file or built-in list.")
        for name in ("captions_per_class", "attempts", "max_new_tokens", "batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give an integer of at least 1.")
        if not 0 <= self.max_similarity <= 1:
            raise ValueError(f"max_similarity is {self.max_similarity}; choose from 0 to 1.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; choose from above 0 to 1.")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; give 0 or more.")
        parse_contexts(self.contexts)
        sample_seed(self.seed, "", 0)

    @property
    def num_captions(self) -> int:
        """Of each class, which a language model is asked for."""
        return 20 if self.captions_per_class is None else self.captions_per_class


@dataclass
class ClassCaptions:
    """The captions of one class as they come.

    Attributes:
        item: the class.
        kept: slot -> its caption.
        words: slot -> the words of its caption that near-duplicates would share.
        refused: slot -> answers that were refused for it.
        reasons: how many were refused for what.
        last: the answer that was refused last.
    """

    item: ClassName
    kept: dict[int, Caption] = field(default_factory=dict)
    words: dict[int, frozenset[str]] = field(default_factory=dict)
    refused: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    last: str = ""


class CaptionWriter:
    """Which captions are asked for next, and what becomes of the answers: a function of the answers before alone.

    Args:
        classes: in the order of their labels.
        settings: of the command.
    """

    def __init__(self, classes: Sequence[ClassName], settings: WritePromptsSettings):
        self.classes = [ClassCaptions(item) for item in classes]
        self.settings = settings
        self._by_key = {own.item.key: own for own in self.classes}
        self._contexts = parse_contexts(settings.contexts)
        self._first = 0

    @property
    def num_kept(self) -> int:
        """Captions so far."""
        return sum(len(own.kept) for own in self.classes)

    def requests(self) -> list[CaptionRequest]:
        """The next batch, of the first classes that lack captions; empty where nothing is left to ask."""
        found: list[CaptionRequest] = []
        for own in self.classes[self._first :]:
            slots = self._open_slots(own)
            if not slots and not found:
                self._first += 1
            for slot in slots[: self.settings.batch_size - len(found)]:
                found.append(caption_request(own.item, slot, own.refused[slot], self._contexts, self.settings.seed))
            if len(found) == self.settings.batch_size:
                break
        return found

    def take(self, requests: Sequence[CaptionRequest], answers: Sequence[Answer]) -> int:
        """Keep or refuse the answers; returns how many were kept.

        Raises:
            ValueError: a class for which nothing is left to ask and no caption is there.
        """
        before = self.num_kept
        for request, answer in zip(requests, answers, strict=True):
            self._take_one(self._by_key[request.item.key], request.slot, answer)
        for own in {request.item.key: self._by_key[request.item.key] for request in requests}.values():
            if not own.kept and not self._open_slots(own):
                raise ValueError(_no_caption(own, self.settings))
        return self.num_kept - before

    def _take_one(self, own: ClassCaptions, slot: int, answer: Answer) -> None:
        caption = read_caption(answer, own.item)
        if isinstance(caption, Caption):
            words = content_words(caption)
            if not is_near_duplicate(words, own.words.values(), self.settings.max_similarity):
                own.kept[slot], own.words[slot] = caption, words
                return
            caption = NEAR_DUPLICATE
        own.refused[slot] += 1
        own.reasons[caption] += 1
        own.last = answer.text

    def _open_slots(self, own: ClassCaptions) -> list[int]:
        slots = range(self.settings.num_captions)
        return [slot for slot in slots if slot not in own.kept and own.refused[slot] < self.settings.attempts]


def write_prompts(
    settings: WritePromptsSettings, load: "Callable[[WritePromptsSettings, str | None], LanguageModel] | None" = None
) -> list[ClassCaptions]:
    """Write the captions of all classes to ``settings.output``, or finish doing so; returns them.

    A run that is stopped at any moment leaves its answers beside the file; the same settings go on from there to the
    file that would have come without the stop, on the same kind of device.

    Without a language model the file has one template with the contexts, and no captions are returned.

    Args:
        settings: of the command.
        load: gives the language model of the settings at a commit of the Hub; None loads it with transformers.

    Raises:
        ValueError: classes or a model that cannot be read, a file that something else wrote, or a class for which the
            model wrote no caption.
    """
    classes = load_class_names(settings.classes or settings.class_names or [])
    if settings.definitions:
        classes = list(with_definitions(classes))
    if settings.language_model is None:
        _write_templates(settings, classes)
        return []
    facts, revision = _facts(settings, classes)
    file = CaptionFile(str(settings.output), facts, _environment(settings))
    writer = CaptionWriter(classes, settings)
    if file.is_finished():
        say(f"{settings.output} is finished; nothing is written")
        return writer.classes
    with file.held():
        for answers in file.begun():
            requests = writer.requests()
            if len(answers) != len(requests):
                raise ValueError(f"{str(file.part)!r} is damaged; remove it to begin anew.")
            writer.take(requests, answers)
        progress = Progress(len(classes) * settings.num_captions, "captions", done=writer.num_kept)
        model: Any = None
        while requests := writer.requests():
            model = model or (load or _load)(settings, revision)
            answers = model.answers(requests)
            file.keep(answers)
            progress.advance(writer.take(requests, answers))
        file.finish([(own.item, [own.kept[slot] for slot in sorted(own.kept)]) for own in writer.classes])
    return writer.classes


def _write_templates(settings: WritePromptsSettings, classes: Sequence[ClassName]) -> None:
    contexts = parse_contexts(settings.contexts)
    if settings.contexts is None:
        # a template has one object
        del contexts[NUMBER]
    if NUMBER in contexts:
        raise ValueError("contexts names 'number', which takes a language_model; give one, or leave it out.")
    facts = {
        "contexts": {name: list(values) for name, values in contexts.items()},
        "classes": digest_of(classes),
        "captions_per_class": settings.captions_per_class,
    }
    file = CaptionFile(str(settings.output), facts, {})
    content = context_templates(classes, contexts, settings.captions_per_class, facts)
    if file.is_finished():
        say(f"{settings.output} is finished; nothing is written")
        return
    with file.held():
        file.write(content)
    (template,) = content["templates"]
    num_prompts = math.prod(len(values) for values in content["attributes"].values())
    num_prompts = min(num_prompts, settings.captions_per_class or num_prompts)
    say(f"{settings.output}: {len(classes)} classes, {num_prompts} prompts of each by the template {template!r}")


def main(argv: Sequence[str] | None = None) -> int:
    """``ubgen write-prompts``: the exit code, 2 for what the user can put right."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    settings = parse_settings(WritePromptsSettings, argv, prog="ubgen write-prompts", description=__doc__)
    classes = write_prompts(settings)
    if not any(own.kept for own in classes):
        # it was there before
        return
    short = [own for own in classes if len(own.kept) < settings.num_captions]
    if short:
        say_warning(
            f"{len(short)} classes have fewer than {settings.num_captions} captions, {short[0].item.name!r} has"
            f" {len(short[0].kept)}: no other answer was kept in {settings.attempts} attempts; raise attempts,"
            " temperature or max_similarity, or give another model"
        )
    say(f"{settings.output}: {sum(len(own.kept) for own in classes)} captions of {len(classes)} classes")
    print(_table(classes))


def _table(classes: Sequence[ClassCaptions]) -> str:
    """Captions and refused answers of the classes with the most refused, and of all."""
    most = sorted(classes, key=lambda own: -own.reasons.total())[:_SHOWN_CLASSES]
    rows = [[own.item.name, len(own.kept), *(own.reasons[reason] for reason in REASONS)] for own in most]
    every = sum((own.reasons for own in classes), Counter())
    rows.append(["all", sum(len(own.kept) for own in classes), *(every[reason] for reason in REASONS)])
    return table(("class", "captions", *REASONS), [[str(cell) for cell in row] for row in rows])


def _no_caption(own: ClassCaptions, settings: WritePromptsSettings) -> str:
    counts = ", ".join(f"{count} {reason}" for reason, count in own.reasons.items())
    return (
        f"language_model is {settings.language_model!r}, which wrote no caption of class {own.item.name!r} in"
        f" {own.reasons.total()} answers ({counts}); the last was {own.last.strip()[:200]!r}. Give another model, or"
        " the class a synonym by which it is usually called."
    )


def _facts(settings: WritePromptsSettings, classes: Sequence[ClassName]) -> tuple[dict[str, Any], str | None]:
    """What the captions depend on, as JSON values, and the model's commit on the Hub, None for a folder."""
    # imported here, as the versions below: --help should not wait for the libraries behind them
    from ..models.sources import hub_commit, public_name
    from .language_model import split_revision

    name, asked = split_revision(str(settings.language_model))
    counted = ("attempts", "max_similarity", "seed", "temperature", "top_p", "max_new_tokens")
    begun = CaptionFile(str(settings.output), {}, {}).settings_begun()
    revision = hub_commit(name, asked) or asked
    if asked is None and begun.get("language_model") == name and begun.get("revision"):
        # the branch may have moved since: a run goes on with what it was begun with
        revision = begun["revision"]
    return {
        "language_model": public_name(name),
        "revision": revision,
        "fingerprint": digest_of_model(name),
        "classes": digest_of(classes),
        "contexts": {context: list(values) for context, values in parse_contexts(settings.contexts).items()},
        "captions_per_class": settings.num_captions,
        **{item: getattr(settings, item) for item in counted},
        "batch_size": settings.batch_size,
    }, revision


def _environment(settings: WritePromptsSettings) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "device": _device(settings).partition(":")[0],
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
    }


def _device(settings: WritePromptsSettings) -> str:
    from ..models.devices import usable_device

    return usable_device(settings.device)


def _load(settings: WritePromptsSettings, revision: str | None) -> "LanguageModel":
    from .language_model import Sampling, load_language_model, split_revision

    sampling = Sampling(settings.temperature, settings.top_p, settings.max_new_tokens)
    name, _ = split_revision(str(settings.language_model))
    return load_language_model(
        name, revision, sampling, _device(settings), trust_remote_code=settings.trust_remote_code
    )
