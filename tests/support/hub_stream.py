"""A dataset stream without a model: rows are a function of their index. A script too, for processes to be killed.

python hub_stream.py FOLDER REPO_ID NUM_SHARDS SHARDS_PER_COMMIT KEEP_LOCAL RANK NUM_PROCESSES
"""

import hashlib
import sys
from pathlib import Path

from ubgen_pipeline.dataset.card import DatasetCardMaker
from ubgen_pipeline.dataset.shards import DatasetShards
from ubgen_pipeline.hub.streamed_dataset import HubDataset
from ubgen_pipeline.models.sources import GeneratorSource

CLASS_NAMES = ["circle", "star"]
ROWS_PER_SHARD = 4


def shards_of(folder: str | Path, num_shards: int, **settings: object) -> DatasetShards:
    manifest = {
        "samples_per_class": num_shards * ROWS_PER_SHARD // 2,
        "seed": 7,
        "num_samples": num_shards * ROWS_PER_SHARD,
        "prompts": {"templates": ["{name}"]},
        "device": "cpu",
        "versions": {"torch": "0"},
        **settings,
    }
    return DatasetShards(folder, manifest, num_shards * ROWS_PER_SHARD, ROWS_PER_SHARD)


def write(shards: DatasetShards, number: int) -> None:
    from datasets import ClassLabel, Features, Value

    features = Features({"label": ClassLabel(names=CLASS_NAMES), "index": Value("int64"), "text": Value("string")})
    shard = shards.shards[number]
    rows = (
        {"label": i % 2, "index": i, "text": hashlib.sha512(str(i).encode()).hexdigest()}
        for i in range(shard.start, shard.stop)
    )
    shards.write(shard, rows, features)


def stream(
    folder: str | Path,
    repo_id: str,
    num_shards: int = 6,
    *,
    shards_per_commit: int = 2,
    keep_local: bool = False,
    rank: int = 0,
    num_processes: int = 1,
    private: bool = False,
    **settings: object,
) -> list[int]:
    """Fill the dataset as ``ubgen generate`` does; returns the numbers of the shards that were made."""
    shards = shards_of(folder, num_shards, **settings)
    shards.check()
    card = DatasetCardMaker(shards, CLASS_NAMES, GeneratorSource("mini"), [0, 1], repo_id, reads_rows=False)
    hub = HubDataset(
        repo_id,
        shards,
        card,
        private=private,
        keep_local=keep_local,
        shards_per_commit=shards_per_commit,
        rank=rank,
        num_processes=num_processes,
    )
    made = [shard.number for shard in hub.open() if shard.number % num_processes == rank]
    shards.open()
    for number in made:
        write(shards, number)
        hub.add(shards.shards[number])
    hub.flush()
    return made


def _main(argv: list[str]) -> None:
    folder, repo_id, num_shards, per_commit, keep_local, rank, num_processes = argv
    stream(
        folder,
        repo_id,
        int(num_shards),
        shards_per_commit=int(per_commit),
        keep_local=keep_local == "1",
        rank=int(rank),
        num_processes=int(num_processes),
    )


if __name__ == "__main__":
    _main(sys.argv[1:])
