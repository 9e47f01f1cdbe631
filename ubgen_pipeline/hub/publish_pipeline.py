"""Publish the pipeline's code on the Hub, so that diffusers loads it where ubgen is not installed."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi

from ..commands.console import say
from ..commands.settings_parser import field_help, name_leading, parse_settings, run_command
from .access import check_may_write, check_repo_id, open_repository, retried

CARD = "README.md"
CODE = "pipeline.py"


@dataclass(frozen=True)
class PublishPipelineSettings:
    """Settings of ``ubgen publish-pipeline``."""

    repo_id: str = field_help("owner/name of the repository on the Hub")
    private: bool = field_help("create it private", False)

    def __post_init__(self) -> None:
        check_repo_id("repo_id", self.repo_id)


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
        ValueError: no token or no right to write.
    """
    api, repo_id = HfApi(library_name="ubgen"), settings.repo_id
    check_may_write(api, repo_id)
    open_repository(api, repo_id, "model", private=settings.private)

    def commit() -> str:
        information = api.model_info(repo_id)
        there = {sibling.rfilename for sibling in information.siblings or []}
        operations = [CommitOperationAdd(file.name, str(file)) for file in pipeline_files()]
        # a card beside a model without this code is the model's
        if CARD not in there or CODE in there:
            operations.append(CommitOperationAdd(CARD, _card(repo_id).encode()))
        return api.create_commit(
            repo_id,
            operations,
            commit_message=f"UbGenPipeline of ubgen {version('ubgen')}",
            parent_commit=information.sha,
        ).oid

    return retried(commit, f"publishing to {repo_id}", repo_id)


def pipeline_files() -> list[Path]:
    """``pipeline.py`` and its helpers."""
    from ..saved_code import code_files

    return code_files(Path(__file__).parents[1] / CODE)


def _card(repo_id: str) -> str:
    from ubgen_hub_cards.pipeline_card import render_pipeline_card

    return render_pipeline_card(repo_id, version("ubgen"))
