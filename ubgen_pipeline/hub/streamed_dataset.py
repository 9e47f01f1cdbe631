"""A dataset on the Hub that is filled shard by shard while it is generated. The Hub alone knows what is done.

    data/train-KKKKK-of-NNNNN.parquet    the shards; one is there whole or not at all
    .ubgen/manifest.json                 the settings that a resume must match, and their hash; and of shards that
                                         the memory was not enough for, the batch sizes that they were drawn with
    README.md                            the card, a function of the settings and of the shards that are there

Finished shards go up in groups, each with the card in one commit on the head that was looked at. Where that head has
moved (another process came first) the listing is read again, so no commit is lost and no shard is sent twice; the
same holds where a commit was made and its answer lost. ``datasets`` loads the repository at every commit.
"""

import json
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.hf_api import RepoFile

from ..commands.console import pause
from ..dataset.shards import DatasetShards, Shard
from ..files.folder_lock import STATE_FOLDER
from .access import check_may_write, check_repo_id, open_repository, retried

REPO_TYPE = "dataset"
MANIFEST = f"{STATE_FOLDER}/manifest.json"
CARD = "README.md"
# the Hub allows 128 an hour to a repository
COMMITS_PER_HOUR = 100
_OWN_FILES = (".gitattributes", CARD, MANIFEST)


@dataclass(frozen=True)
class PublishedShards:
    """What the Hub holds at the commit ``head``: size in bytes of each shard's file, by the shard's number."""

    head: str
    num_bytes: dict[int, int]
    has_manifest: bool


class HubDataset:
    """One dataset repository, and the shards of it that this process has finished and not yet pushed.

    Args:
        repo_id: ``owner/name``.
        shards: the dataset's folder here.
        card: gives the card for the shards that are there and the size of their files in bytes.
        private: create it private.
        keep_local: leave the files of pushed shards in the folder.
        shards_per_commit: finished shards that make a commit; more where the hour's commits are spent.
        rank, num_processes: shard k is pushed by process k mod ``num_processes``; they share the hour's commits.
        num_committers: processes that share them, where it is another number.
    """

    def __init__(
        self,
        repo_id: str,
        shards: DatasetShards,
        card: Callable[[Sequence[Shard], int], str],
        *,
        private: bool = False,
        keep_local: bool = False,
        shards_per_commit: int = 8,
        rank: int = 0,
        num_processes: int = 1,
        num_committers: int | None = None,
    ):
        check_repo_id("hub_dataset_id", repo_id)
        self.repo_id, self.shards, self.card = repo_id, shards, card
        self.private, self.keep_local, self.shards_per_commit = private, keep_local, shards_per_commit
        self.api = HfApi(library_name="ubgen")
        self.rank, self.num_processes = rank, num_processes
        self.budget = CommitBudget(num_committers or num_processes)
        self.pending: list[Shard] = []
        self.lowered_batch_size: int | None = None

    def open(self) -> list[Shard]:
        """Create the repository or check the one there; returns the shards that are neither there nor finished here.

        What is finished here and not there, as after a kill, is pushed by the process that it belongs to.

        ``lowered_batch_size`` is then the one that earlier processes had to go down to, if they had.

        Raises:
            ValueError: no token or right to write, or a repository that holds something else or a dataset made with
                other settings.
        """
        check_may_write(self.api, self.repo_id)
        open_repository(self.api, self.repo_id, REPO_TYPE, private=self.private)
        published = retried(self._read, "reading the repository", self.repo_id)
        if published.has_manifest:
            self._check_manifest(published.head)
            self.lowered_batch_size = min(self._batch_sizes(published.head).values(), default=None)
        commits = retried(self._commit_times, "reading the repository's history", self.repo_id)
        self.budget.others.extend(commits)
        self._discard(shard for shard in self.shards.shards if shard.number in published.num_bytes)
        absent = [shard for shard in self.shards.shards if shard.number not in published.num_bytes]
        missing = [shard for shard in absent if not self.shards.is_complete(shard)]
        for shard in absent:
            if shard not in missing and shard.number % self.num_processes == self.rank:
                self.add(shard)
        return missing

    def absent(self) -> list[Shard]:
        """The shards that are neither there nor finished here, as the Hub lists them now."""
        published = retried(self._read, "reading the repository", self.repo_id)
        shards = (shard for shard in self.shards.shards if shard.number not in published.num_bytes)
        return [shard for shard in shards if not self.shards.is_complete(shard)]

    def add(self, shard: Shard) -> None:
        """Take a finished shard; push what is pending where that makes a commit's worth and the rate allows one."""
        self.pending.append(shard)
        if len(self.pending) >= self.shards_per_commit and self.budget.wait() == 0:
            self._push()

    def flush(self) -> None:
        """Push what is pending, however little, when the rate allows it."""
        if not self.pending:
            return
        if wait := self.budget.wait():
            pause(wait, f"the Hub, which takes {COMMITS_PER_HOUR} commits in an hour")
        self._push()

    def _push(self) -> None:
        retried(self._commit_pending, f"pushing to {self.repo_id}", self.repo_id)
        done, self.pending = self.pending, []
        self._discard(done)

    def _commit_pending(self) -> None:
        """One commit of the pending shards that the Hub lacks; none where it has them all."""
        published = self._read()
        new = [shard for shard in self.pending if shard.number not in published.num_bytes]
        if not new:
            return
        sizes = published.num_bytes | {shard.number: self.shards.file(shard).stat().st_size for shard in new}
        present = [shard for shard in self.shards.shards if shard.number in sizes]
        operations = [
            CommitOperationAdd(f"data/{self.shards.file(shard).name}", str(self.shards.file(shard))) for shard in new
        ]
        operations.append(CommitOperationAdd(CARD, self.card(present, sum(sizes.values())).encode()))
        lowered = {shard.number: size for shard in new if (size := self.shards.own_batch_size(shard)) is not None}
        if lowered or not published.has_manifest:
            batch_sizes = self._batch_sizes(published.head) if published.has_manifest else {}
            text = self.shards.manifest_text(batch_sizes | lowered)
            operations.append(CommitOperationAdd(MANIFEST, text.encode()))
        numbers = ", ".join(str(shard.number) for shard in new)
        self.api.create_commit(
            self.repo_id,
            operations,
            commit_message=f"Add shards {numbers} of {len(self.shards.shards)}",
            repo_type=REPO_TYPE,
            parent_commit=published.head,
        )
        self.budget.spend()

    def _read(self) -> PublishedShards:
        head = self.api.repo_info(self.repo_id, repo_type=REPO_TYPE).sha
        assert head is not None
        files = self.api.list_repo_tree(self.repo_id, recursive=True, revision=head, repo_type=REPO_TYPE)
        sizes = {file.path: file.size for file in files if isinstance(file, RepoFile)}
        paths = {f"data/{self.shards.file(shard).name}": shard.number for shard in self.shards.shards}
        foreign = sorted(set(sizes) - set(paths) - set(_OWN_FILES))
        data = [path for path in foreign if path.startswith("data/")]
        if data or (foreign and MANIFEST not in sizes):
            what = (data or foreign)[0]
            # another number of shards comes from other settings; the check of the manifest names them
            if MANIFEST in sizes and re.fullmatch(r"data/train-\d{5}-of-\d{5}\.parquet", what):
                self._check_manifest(head)
            raise ValueError(
                f"hub_dataset_id is {self.repo_id!r}, which holds something else ({what!r}); give a new name, or an"
                " empty repository."
            )
        held = {paths[path]: size for path, size in sizes.items() if path in paths}
        return PublishedShards(head, held, MANIFEST in sizes)

    def _check_manifest(self, head: str) -> None:
        found = self._manifest(head)["settings"]
        if not self.shards.accepts(found):
            message = self.shards.difference(found, f"hub_dataset_id is {self.repo_id!r}")
            raise ValueError(f"{message} `ubgen publish FOLDER {self.repo_id} --replace` puts this one in its place.")

    def _batch_sizes(self, head: str) -> dict[int, int]:
        """By shard number, the batch sizes there that are not the settings' own."""
        return {int(number): size for number, size in self._manifest(head).get("batch_sizes", {}).items()}

    def _manifest(self, head: str) -> dict[str, Any]:
        file = retried(
            lambda: self.api.hf_hub_download(self.repo_id, MANIFEST, repo_type=REPO_TYPE, revision=head),
            "reading the manifest",
            self.repo_id,
        )
        try:
            content = json.loads(Path(file).read_text(encoding="utf-8"))
            content["settings"].items()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{MANIFEST!r} of {self.repo_id!r} is no manifest; give a new name.") from error
        return content

    def _commit_times(self) -> list[float]:
        """Of the commits of the last hour."""
        commits = self.api.list_repo_commits(self.repo_id, repo_type=REPO_TYPE)
        now = self.budget.clock()
        # The Hub tells the times of its own clock. Where this machine's is behind, a commit would lie in the future,
        # and be waited for until it was an hour old here.
        times = sorted(min(commit.created_at.timestamp(), now) for commit in commits)
        return [time for time in times if time > now - CommitBudget.WINDOW]

    def _discard(self, shards: Iterable[Shard]) -> None:
        if not self.keep_local:
            for shard in shards:
                self.shards.discard(shard)


def published_settings(repo_id: str) -> dict[str, Any] | None:
    """Settings in the manifest of a dataset on the Hub; None where there is no such dataset, or none begun."""
    try:
        file = retried(
            lambda: HfApi(library_name="ubgen").hf_hub_download(repo_id, MANIFEST, repo_type=REPO_TYPE),
            "reading the manifest",
            repo_id,
        )
        return json.loads(Path(file).read_text(encoding="utf-8")).get("settings")
    # errors are passed over here: opening the repository says what is wrong
    except (OSError, ValueError, AttributeError):
        return None


class CommitBudget:
    """Counts commits, so that all processes together make at most ``COMMITS_PER_HOUR`` in any hour.

    Commits of the last hour that were there at the start are counted for all; what they leave is shared evenly.
    """

    WINDOW = 3600.0

    def __init__(self, num_processes: int = 1, clock: Callable[[], float] = time.time):
        self.num_processes, self.clock = num_processes, clock
        self.others: deque[float] = deque()
        self.own: deque[float] = deque()

    def spend(self) -> None:
        """Count a commit."""
        self.own.append(self.clock())

    def wait(self) -> float:
        """Seconds until this process may commit; 0 where it may now."""
        now = self.clock()
        for times in (self.others, self.own):
            while times and times[0] <= now - self.WINDOW:
                times.popleft()
        share = (COMMITS_PER_HOUR - len(self.others)) // self.num_processes
        if not self.others and not self.own:
            share = max(share, 1)
        if len(self.own) < share:
            return 0.0
        # wait until the oldest commit of those that count is more than an hour old
        oldest = [times[0] for times in (self.others, self.own) if times]
        return max(min(oldest) + self.WINDOW - now, 0.01)
