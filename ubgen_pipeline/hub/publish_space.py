"""Publish the Space on the Hub: its files, a wheel of ubgen, a card, and variables that say what it draws with."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from ..commands.console import say
from ..commands.settings_parser import field_help, name_leading, parse_settings, run_command
from ..mini import EMBEDDED_MODELS
from ..models.loras import split_lora
from ..prompts.built_in_classes import built_in_name
from ..prompts.class_prompts import load_class_names
from .access import check_may_write, check_repo_id, open_repository, retried
from .wheel import Wheel, pack_wheel, space_files

CARD = "README.md"
REQUIREMENTS = "requirements.txt"
# what the Hub itself puts into a new Space
_OF_THE_HUB = {".gitattributes", CARD}
_CLASS_FILE, _REPORT_FILE = "class_list", "report.json"


@dataclass(frozen=True)
class PublishSpaceSettings:
    """Settings of ``ubgen publish-space``. What is not given stays as it is in a Space that exists."""

    repo_id: str = field_help("owner/name of the Space on the Hub")
    private: bool = field_help("create it private", False)
    model: str | None = field_help("model to draw with: mini, mini-flow, or a Hub id; '' is the default again", None)
    variant: str | None = field_help("variant of the model's weights, such as fp16; '' takes the plain ones", None)
    lora: list[str] | None = field_help(
        "Hub id of the LoRA that is compared with the base, or of two, with :STRENGTH where that is not 1; '' takes it"
        " away",
        None,
    )
    classes: str | None = field_help("built-in list, or a class file, which goes into the Space", None)
    datasets: list[str] | None = field_help("Hub ids of datasets offered for browsing", None)
    report: str | None = field_help("report.json of ubgen evaluate, whose tables go into the Space", None)

    def __post_init__(self) -> None:
        check_repo_id("repo_id", self.repo_id)
        if isinstance(self.lora, str):
            object.__setattr__(self, "lora", [self.lora])
        if len(self.lora or ()) > 2:
            raise ValueError(f"lora names {len(self.lora or ())} LoRAs; a Space compares two at most.")
        for argument, source in self.sources():
            if Path(source).expanduser().exists():
                raise ValueError(
                    f"{argument} is {source!r}, which lies here, where no Space can read it; push it first."
                )
            check_repo_id(argument, source)

    def sources(self) -> Iterator[tuple[str, str]]:
        """What must be on the Hub: setting and id."""
        if self.model and self.model not in EMBEDDED_MODELS:
            yield "model", self.model
        yield from (("lora", split_lora(entry)[0]) for entry in self.lora or () if entry)
        yield from (("datasets", name) for name in self.datasets or () if name)


def main(argv: Sequence[str] | None = None) -> int:
    """``ubgen publish-space OWNER/NAME``: the exit code, 2 for what the user can put right."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    settings = parse_settings(
        PublishSpaceSettings,
        name_leading(argv, ["repo_id"]),
        prog="ubgen publish-space",
        description=__doc__,
    )
    commit = publish_space(settings)
    say(f"{settings.repo_id}: the Space is at commit {commit}")


def publish_space(settings: PublishSpaceSettings) -> str:
    """Put the Space's files in one commit, then set those of its variables that differ; returns the commit's id.

    Files of other names are left alone, but for wheels of other versions. An unchanged Space gets no commit.

    Raises:
        ValueError: no token or no right to write, a Space that holds another app, a model or dataset that is not on
            the Hub, or a class file or report that cannot be read.
    """
    variables, files = _variables_and_files(settings)
    wheel = pack_wheel()
    files |= {file.name: file.read_bytes() for file in space_files()} | {wheel.name: wheel.content}
    files[REQUIREMENTS] = _requirements(files[REQUIREMENTS].decode(), wheel)
    api, repo_id = HfApi(library_name="ubgen"), settings.repo_id
    check_may_write(api, repo_id)
    for argument, source in settings.sources():
        _check_source(api, argument, source)
    open_repository(api, repo_id, "space", private=settings.private, space_sdk="gradio")
    before = retried(lambda: _variables(api, repo_id), "reading the Space's variables", repo_id)

    def commit() -> str:
        information = api.space_info(repo_id)
        there = {sibling.rfilename for sibling in information.siblings or []}
        _check_content(repo_id, there)
        card = _card(repo_id, before | variables)
        contents = files | {CARD: card.encode()}
        stale = {name for name in there if _is_wheel(name)} - set(contents)
        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        return api.create_commit(
            repo_id,
            [*operations, *map(CommitOperationDelete, sorted(stale))],
            repo_type="space",
            commit_message=f"Space of ubgen {version('ubgen')}",
            parent_commit=information.sha,
        ).oid

    oid = retried(commit, f"publishing to {repo_id}", repo_id)
    for name, value in variables.items():
        if before.get(name, "") != value:
            retried(lambda n=name, v=value: _set_variable(api, repo_id, n, v), f"setting {name}", repo_id)
    return oid


def _variables_and_files(settings: PublishSpaceSettings) -> tuple[dict[str, str], dict[str, bytes]]:
    """Variables that the settings ask for, and the files that these name."""
    variables, files = {}, {}
    for name in ("model", "variant", "classes", "report"):
        if (value := getattr(settings, name)) is not None:
            variables[f"UBGEN_{name.upper()}"] = value
    for name in ("lora", "datasets"):
        if (values := getattr(settings, name)) is not None:
            variables[f"UBGEN_{name.upper()}"] = ",".join(filter(None, values))
    if settings.classes:
        load_class_names(settings.classes)
        if built_in_name(settings.classes) is None:
            file = Path(settings.classes).expanduser()
            variables["UBGEN_CLASSES"] = _CLASS_FILE + file.suffix.lower()
            files[variables["UBGEN_CLASSES"]] = file.read_bytes()
    if settings.report:
        variables["UBGEN_REPORT"] = _REPORT_FILE
        files[_REPORT_FILE] = _public_report(Path(settings.report).expanduser())
    return variables, files


def _public_report(file: Path) -> bytes:
    """The report's tables; of a path on this machine the last part only."""
    try:
        tables = json.loads(file.read_text(encoding="utf-8"))["tables"]
        public: dict[str, Any] = {}
        for title, columns in tables.items():
            public[title] = {}
            for name, figures in columns.items():
                name = Path(name).name if Path(name).is_absolute() else name
                while name in public[title]:
                    name += "_"
                public[title][name] = figures
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"report is {str(file)!r}, which is no report.json of ubgen evaluate.") from error
    return json.dumps({"tables": public}, ensure_ascii=False, indent=1).encode()


def _requirements(lines: str, wheel: Wheel) -> bytes:
    """What the wheel needs, in place of itself; a Space has no other file yet when it installs its requirements."""
    others = [line for line in lines.splitlines() if line.strip() not in ("", "ubgen")]
    return "\n".join([*wheel.requirements, *others, ""]).encode()


def _check_source(api: HfApi, argument: str, source: str) -> None:
    """Raise ``ValueError`` where the Hub has no such model or dataset; say so where the Space will need a token."""
    repo_type = "dataset" if argument == "datasets" else "model"
    information = retried(lambda: api.repo_info(source, repo_type=repo_type), f"looking up {argument}", source)
    if information.private or information.gated:
        say(f"{source!r} is private or gated: give the Space a secret HF_TOKEN that may read it.")


def _check_content(repo_id: str, there: set[str]) -> None:
    others = sorted(there - _OF_THE_HUB)
    if others and not any(map(_is_wheel, others)):
        raise ValueError(
            f"{repo_id!r} is a Space with other content ({', '.join(others[:3])}{', …' if others[3:] else ''}); give"
            " another name, or empty it first."
        )


def _is_wheel(name: str) -> bool:
    return name.startswith("ubgen-") and name.endswith(".whl")


def _variables(api: HfApi, repo_id: str) -> dict[str, str]:
    return {name: variable.value for name, variable in api.get_space_variables(repo_id).items()}


def _set_variable(api: HfApi, repo_id: str, name: str, value: str) -> None:
    if value:
        api.add_space_variable(repo_id, name, value)
    else:
        api.delete_space_variable(repo_id, name)


def _card(repo_id: str, variables: Mapping[str, str]) -> str:
    from ubgen_hub_cards.space_card import SpaceFacts, render_space_card

    return render_space_card(SpaceFacts(repo_id.partition("/")[2], version("ubgen"), variables))
