"""Publish the pipeline of a model family on the Hub, so that diffusers loads it where ubgen is not installed.

diffusers looks for one file name in a repository, ``pipeline.py``, so a repository holds one family.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi

from ..commands.console import say
from ..commands.settings_parser import field_help, name_leading, parse_settings, run_command
from ..models.families import FAMILIES, RegisteredFamily
from .access import check_may_write, check_repo_id, open_repository, retried

CARD = "README.md"
CODE = "pipeline.py"
# how our code names its class
_OUR_CLASS = re.compile(r"^class (UbGen\w+)\(ClassNameCall,", re.MULTILINE)


@dataclass(frozen=True)
class PublishPipelineSettings:
    """Settings of ``ubgen publish-pipeline``."""

    repo_id: str = field_help("owner/name of the repository on the Hub")
    family: str = field_help(f"family of models it draws with: {', '.join(FAMILIES)}", "sd")
    private: bool = field_help("create it private", False)

    def __post_init__(self) -> None:
        check_repo_id("repo_id", self.repo_id)
        if self.family not in FAMILIES:
            raise ValueError(f"family is {self.family!r}; choose one of {', '.join(FAMILIES)}.")


def main(argv: Sequence[str] | None = None) -> int:
    """``ubgen publish-pipeline OWNER/NAME``: the exit code, 2 for what the user can put right."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    settings = parse_settings(
        PublishPipelineSettings,
        name_leading(argv, ["repo_id"]),
        prog="ubgen publish-pipeline",
        description=__doc__,
    )
    commit = publish_pipeline(settings)
    say(f"{settings.repo_id}: the pipeline is at commit {commit}")


def publish_pipeline(settings: PublishPipelineSettings) -> str:
    """Put the code, and a card where there is none of somebody else's, in one commit; returns the commit's id.

    Files of other names are left alone, so the code can lie beside a model. Unchanged code makes no commit.

    Raises:
        ValueError: no token or no right to write, or a repository that holds another pipeline.
    """
    api, repo_id = HfApi(library_name="ubgen"), settings.repo_id
    check_may_write(api, repo_id)
    open_repository(api, repo_id, "model", private=settings.private)
    family = FAMILIES[settings.family]

    def commit() -> str:
        information = api.model_info(repo_id)
        there = {sibling.rfilename for sibling in information.siblings or []}
        if CODE in there:
            there_code = Path(api.hf_hub_download(repo_id, CODE, revision=information.sha)).read_text(encoding="utf-8")
            _check_code(repo_id, there_code, family)
        operations = [CommitOperationAdd(name, str(file)) for name, file in published_files(settings.family).items()]
        # a card beside a model without this code is the model's
        if CARD not in there or CODE in there:
            operations.append(CommitOperationAdd(CARD, _card(repo_id, family).encode()))
        return api.create_commit(
            repo_id,
            operations,
            commit_message=f"{family.class_name} of ubgen {version('ubgen')}",
            parent_commit=information.sha,
        ).oid

    return retried(commit, f"publishing to {repo_id}", repo_id)


def published_files(family: str) -> dict[str, Path]:
    """A family's file, under the name that diffusers looks for, and its helpers: names on the Hub, and files here."""
    from ..saved_code import code_files

    code, *helpers = code_files(FAMILIES[family].code_file)
    return {CODE: code, **{helper.name: helper for helper in helpers}}


def _check_code(repo_id: str, code: str, family: RegisteredFamily) -> None:
    """Raise ``ValueError`` where a repository's pipeline is of another family, or somebody else's."""
    named = _OUR_CLASS.search(code)
    if named is None:
        raise ValueError(f"repo_id is {repo_id!r}, which holds a {CODE} that is not ubgen's; give another name.")
    if named[1] != family.class_name:
        others = [name for name, other in FAMILIES.items() if other.class_name == named[1]]
        raise ValueError(
            f"repo_id is {repo_id!r}, which holds {named[1]}"
            f"{f' of the family {others[0]}' if others else ''}; a repository holds one family, so give another name."
        )


def _card(repo_id: str, family: RegisteredFamily) -> str:
    from ubgen_hub_cards.pipeline_card import render_pipeline_card

    return render_pipeline_card(
        repo_id,
        version("ubgen"),
        class_name=family.class_name,
        stock_name=family.stock_names[0],
        example_model=family.pipeline_class().example_model,
    )
