"""One run that draws a dataset, or what is missing of it: alone, as one of several ranks, or as a cluster's worker."""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..commands.console import Progress, WaitingNote, say, table
from ..commands.library_log import log_into
from ..commands.stopwatch import Stopwatch, stage
from ..dataset.card import THROUGHPUT_REPORT, DatasetCardMaker
from ..dataset.row_facts import marked_rows
from ..dataset.shards import DatasetShards, Shard
from ..files.folder_lock import STATE_FOLDER
from ..files.output_store import is_of_one_process
from ..hub.streamed_dataset import HubDataset, published_settings
from ..inference.presets import describe
from ..inference.settings import Inference
from ..models.devices import usable_device
from ..models.loras import Lora, LoraLike, as_loras
from ..models.sources import GeneratorSource, hub_commit, model_commit
from ..prompts.class_prompts import label_names
from ..samples.sample import Samples
from .image_operations import RunOperations
from .manifest import manifest
from .run_figures import RunFigures, say_marked
from .settings import GenerateSettings
from .shard_writer import write_shards
from .throughput import Throughput

if TYPE_CHECKING:
    from ..family import Family
    from ..pipeline import UbGenPipeline

# Batches at work at the same time on a GPU. One is drawn by the GPU, one waits for its turn there, and two are encoded
# on the CPU, which is enough to keep up with the fastest GPU that was tried.
_GPU_THREADS = 4
# seconds between questions to a store what other processes have written; each is a few requests
_ASK_STORE_EVERY = 2.0


class DatasetRun:
    """The dataset that the settings describe, and what of it is there. Nothing is written before :meth:`write`.

    Args:
        settings: of the dataset.
        samples: those that the settings stand for.
        rank: of this process; the others wait for what number 0 chooses for a new dataset.
        world_size: processes that share the work.
        begun: the manifest's settings, where another process has settled them and they are not in the folder.
        num_committers: processes that share the work and the Hub's commits, where they are not those of
            ``world_size``.

    Raises:
        ValueError: a setting out of range, a folder or repository that holds something else, or fewer GPUs than
            processes.
    """

    def __init__(
        self,
        settings: GenerateSettings,
        samples: Samples,
        rank: int = 0,
        world_size: int = 1,
        begun: Mapping[str, Any] | None = None,
        num_committers: int | None = None,
    ):
        self.settings, self.samples, self.rank, self.world_size = settings, samples, rank, world_size
        folder = settings.folder()
        self.names = label_names(samples.classes)
        self.source = GeneratorSource(
            settings.model,
            model_commit(settings.model, settings.revision),
            loras=_at_commits(settings.lora, "lora"),
            few_step_lora=next(iter(_at_commits(settings.few_step_lora, "few_step_lora")), None),
        )
        self.shards = DatasetShards(folder, {}, len(samples), settings.samples_per_shard)
        if is_of_one_process(self.shards.store) and (world_size > 1 or settings.engine == "ray"):
            raise ValueError(
                f"output_dir is {str(self.shards.folder)!r}, which other processes do not see; give a folder or an"
                " address that all of them see."
            )
        self._begun = dict(begun) if begun is not None else self.shards.begun_with()
        if self._begun is None and settings.hub_dataset_id is not None:
            self._begun = published_settings(settings.hub_dataset_id)
        self.wanted_device = self._wanted_device()
        if self._begun is not None:
            # what was left to the model's family is in the manifest now
            self._complete(self._begun)
            self._settle(Inference.resumed(self.settings, self._begun))
        self.shards.check()
        self.card = DatasetCardMaker(
            self.shards,
            self.names,
            self.source,
            samples.turns,
            settings.hub_dataset_id,
            reads_rows=settings.hub_dataset_id is None,
        )
        self._num_sharing = num_committers or world_size
        self._hub = None
        if settings.hub_dataset_id is not None:
            self._hub = HubDataset(
                settings.hub_dataset_id,
                self.shards,
                self.card,
                private=settings.private,
                keep_local=settings.keep_local,
                shards_per_commit=settings.shards_per_commit,
                rank=rank,
                num_processes=world_size,
                num_committers=num_committers,
            )
        self._is_finished = self._hub is None and self._begun is not None and self.shards.is_finished()
        self._pipeline: UbGenPipeline | None = None
        self.figures = RunFigures()
        self._operations: RunOperations | None = None

    def missing(self) -> list[int]:
        """Numbers of the shards that this process has to write."""
        if self._hub is not None:
            missing = self._hub.open()
        elif missing := [] if self._is_finished else self.shards.missing():
            self.shards.check_may_write()
        return [shard.number for shard in missing if shard.number % self.world_size == self.rank]

    def _wanted_device(self) -> str | None:
        """What to draw on; None where that is left to what a Ray cluster has, since its driver draws nothing itself.

        Raises:
            ValueError: fewer GPUs than processes, or no such device.
        """
        if self.settings.engine == "ray":
            return self.settings.device or (self._begun or {}).get("device")
        import torch

        device = usable_device(self.settings.device)
        if device == "cuda" and int(os.environ.get("LOCAL_RANK", 0)) >= torch.cuda.device_count():
            raise ValueError(
                f"LOCAL_RANK is {os.environ.get('LOCAL_RANK', 0)}, and this machine has {torch.cuda.device_count()}"
                " GPUs; start one process for each."
            )
        return device

    @property
    def device(self) -> str:
        """What to draw on, where that is known."""
        assert self.wanted_device is not None
        return self.wanted_device

    @property
    def begun(self) -> Mapping[str, Any] | None:
        """The manifest's settings; None where the dataset is new, and how to draw is not settled."""
        return self._begun

    def take_manifest(self, begun: Mapping[str, Any]) -> None:
        """Take the manifest's settings, which another process has settled."""
        self._begun, self.wanted_device = dict(begun), begun["device"]
        self._complete(begun)
        self.shards.settle(begun)
        if self._hub is None and isinstance(self.shards.folder, Path):
            log_into(self.shards.folder / STATE_FOLDER)

    @property
    def folder_to_share(self) -> str | None:
        """What other processes are told to write to; None where each has a folder of its own and pushes to the Hub."""
        if self._hub is not None:
            return None
        folder = self.shards.folder
        return str(folder.resolve() if isinstance(folder, Path) else folder)

    def still_missing(self) -> list[int]:
        """Numbers of the shards that are missing now, whoever should write them."""
        missing = self.shards.missing() if self._hub is None else self._hub.absent()
        return [shard.number for shard in missing]

    def flush(self) -> None:
        """Push what is finished, where the dataset is on the Hub."""
        if self._hub is not None:
            self._hub.flush()

    def prepare(self) -> None:
        """Load the model, settle how it draws, and make the folder; ``write`` does so where it was not done.

        Raises:
            ValueError: a model, LoRA or prompt that does not fit, or too little memory.
        """
        if self._pipeline is None:
            with stage("loading"):
                self._prepare()

    def _prepare(self) -> None:
        import torch

        from ..inference.choice import choose_inference, use_threads, wanted_dtype, wanted_offload
        from ..inference.placement import place_networks
        from ..models.loading import load_family
        from .dataset_rows import DatasetRows, check_prompts
        from .row_drawer import RowDrawer, RowSettings
        from .run_prompts import run_prompt_cache

        samples, device = self.samples, self.device
        if device == "cuda" and "LOCAL_RANK" in os.environ:
            device = f"cuda:{os.environ['LOCAL_RANK']}"
        if device.startswith("cuda:"):
            torch.cuda.set_device(device)
        given = self.settings
        offload = wanted_offload(given, self._begun, device)
        records_attention = bool(given.wanted_annotations())
        family = load_family(given.model, revision=self.source.model_revision or given.revision)
        dtype = wanted_dtype(given, self._begun, device, family.default_gpu_dtype)
        if given.preset is not None and self.rank == 0:
            say(describe(given.preset))
        row_settings = RowSettings.of_run(given, self.source, self._begun)
        # the model loads before the folder is made, so that a model that cannot be loaded leaves nothing behind
        pipeline = row_settings.load(device if offload == "none" else "cpu", dtype, self._check_model)
        # a checkpoint in one file was not looked at before
        self._check_model(pipeline)
        if self._begun is None:
            defaults = ("num_inference_steps", "guidance_scale")
            self._complete({name: getattr(pipeline, f"default_{name}") for name in defaults})
        settings, row_settings = self.settings, RowSettings.of_run(self.settings, self.source, self._begun)
        assert settings.num_inference_steps is not None and settings.guidance_scale is not None
        _, height, width = pipeline.latent_shape(settings.height, settings.width)
        num_chunks = check_prompts(settings, samples, pipeline)
        if self._begun is None and self.rank > 0 and self._hub is None:
            note = WaitingNote(lambda: "rank 0, which chooses how to draw")
            while (begun := self.shards.begun_with()) is None:
                note.wait(_ASK_STORE_EVERY if self.shards.store.is_address else 0.1)
            self._begun = begun
        num_at_once = use_threads(
            settings, self._begun, height * width, at_once=device == "cpu" and not records_attention
        )
        self.num_threads = _GPU_THREADS if device.startswith("cuda") else num_at_once
        self._operations = RunOperations(pipeline, settings, device, dtype, row_settings.quantization)
        row_settings.prepare(pipeline, dtype)
        if offload != "none":
            place_networks(pipeline, device, offload)
        self._prompts = run_prompt_cache(row_settings, settings.prompt_features, num_chunks, dtype, device, offload)
        self.rows = DatasetRows(settings, samples, RowDrawer(pipeline, row_settings, num_chunks, self._prompts))
        is_doubled = settings.guidance_scale > 1 and pipeline.guidance == "classifier-free"
        is_doubled = is_doubled or settings.true_cfg_scale is not None
        num_calls = settings.num_inference_steps * (2 if is_doubled else 1)
        inference = choose_inference(
            settings,
            self._begun,
            pipeline,
            self.rows.trial,
            has_lora=self.source.acts,
            latent_pixels=height * width,
            num_denoiser_samples=len(samples) * num_calls // self._num_sharing,
            is_compilable=not records_attention
            and not settings.reuses_features()
            and offload not in ("model", "group"),
        )
        self.rows.is_compiled = inference.compile == "on"
        self.rows.marks_not_finite = inference.not_finite == "marked"
        self.batch_size, self.attention = inference.batch_size, inference.attention
        self._settle(inference)
        self.shards.open()
        # before anything else is at work here
        self._operations.measure(self.num_threads)
        self._pipeline = pipeline

    def _check_model(self, model: "Family") -> None:
        """Raise ``ValueError`` for settings that do not go with the model."""
        from ..family import check_effects

        given = self.settings
        if self._begun is None:
            check_effects(
                model,
                guidance_scale=given.guidance_scale,
                negative_prompt=given.negative_prompt,
                true_cfg_scale=given.true_cfg_scale,
                **given.shortcuts(),
                **given.diversity_arguments(),
            )
        model.latent_shape(given.height, given.width)

    @property
    def pipeline(self) -> "UbGenPipeline":
        """What draws, prepared."""
        self.prepare()
        assert self._pipeline is not None
        return self._pipeline

    def write(self, numbers: Sequence[int], report: Callable[[int], None] | None = None) -> None:
        """Draw and write those of the missing shards, and push them where the dataset is on the Hub.

        Args:
            numbers: of the shards.
            report: called with the number of images that were just drawn, in place of a line of progress.
        """
        if not numbers:
            return
        self.prepare()
        with stage("loading"):
            from ..inference.attention_kernels import attention_order
            from .dataset_rows import dataset_features

            features = dataset_features(
                self.settings,
                self.samples,
                self.names,
                self.pipeline.safety_checker is not None,
                marks_not_finite=self.rows.marks_not_finite,
            )
        num_images = sum(shard.stop - shard.start for shard in self.shards.shards if shard.number in set(numbers))
        progress = Progress(num_images, "images")
        # one line of progress: rank 0's share goes as fast as the others'
        report = report or (progress.advance if self.rank == 0 else lambda count: None)
        started = time.monotonic()
        if self._prompts.moves_encoders:
            shards = (self.shards.shards[number] for number in numbers)
            self._prompts.expect(
                self.rows.texts(index for shard in shards for index in range(shard.start, shard.stop))
            )
        with attention_order(self.attention):
            write_shards(
                self.shards,
                numbers,
                self.rows.rows,
                features,
                batch_size=self._affordable_batch_size(),
                num_threads=self.num_threads,
                report=report,
                written=self._take,
            )
        self.figures.count(num_images, len(numbers), time.monotonic() - started)

    def _take(self, shard: Shard) -> None:
        """A shard was committed; where the dataset is on the Hub it may leave this machine next."""
        self.figures.marks += self.shards.reading(lambda: marked_rows(self.shards.file(shard)))
        if self._hub is not None:
            self._hub.add(shard)

    def _affordable_batch_size(self) -> int:
        """The one settled on, or what the memory was enough for in an earlier run, here or on the Hub."""
        lowered = (self.shards.lowered_batch_size(), self._hub and self._hub.lowered_batch_size)
        return min([self.batch_size, *filter(None, lowered)])

    def finish(self, watch: Stopwatch | None = None) -> None:
        """Push what is left; rank 0 waits for the shards that others write, and writes the card.

        Args:
            watch: has timed the run; the figures are said, and rank 0 puts them beside the shards for the card.
        """
        if self._is_finished:
            say(f"{self.shards.folder} is finished, {len(self.samples)} images: nothing to do")
            return
        made = f"{len(self.samples)} images of {len(self.names)} classes in {len(self.shards.shards)} shards"
        if self._hub is not None:
            self.flush()
            self._say_throughput(watch)
            if self.settings.keep_local and not self.shards.missing():
                self._write_card()
            say(f"{self.settings.hub_dataset_id}: {self.figures.num_shards} shards made here; {made} in all")
            say_marked(self.figures.marks, "made here")
        elif self.rank == 0:
            note = WaitingNote(lambda: self._others_at_work())
            while self.shards.missing():
                note.wait(_ASK_STORE_EVERY if self.shards.store.is_address else 0.5)
            if lines := self._say_throughput(watch):
                who = "its Ray workers" if self.figures.workers else "its rank 0"
                lines = [f"Of the run that finished the dataset, by {who}:", *lines, ""]
                self.shards.write_report(THROUGHPUT_REPORT, "\n".join(lines))
            self._write_card()
            say(f"{self.shards.folder}: {made}")
            say_marked(self.card.marks(self.shards.shards), "of the dataset")
        else:
            self._say_throughput(watch)

    def throughput(self, watch: Stopwatch) -> Throughput:
        """Figures of what this process has drawn, or the workers that drew for it."""
        figures = self.figures.throughput(watch)
        if self.figures.workers or not figures.num_images or self._operations is None:
            return figures
        operations = self._operations.of_image(self.pipeline, self._prompts.newest())
        limit = None if operations is None else self._operations.limit
        return dataclasses.replace(figures, operations=operations, limit=limit)

    def _say_throughput(self, watch: Stopwatch | None) -> list[str]:
        """Lines of figures, each of which is said; none where nothing was drawn."""
        if watch is None or not (figures := self.throughput(watch)).num_images:
            return []
        lines = figures.lines()
        for line in lines:
            say(line)
        return lines

    def table(self) -> str:
        """Figures of the dataset, which is finished, with the rate of what this process has drawn."""
        figures = [str(len(self.samples)), str(len(self.names)), str(len(self.shards.shards))]
        rate = self.figures.rate
        figures += [f"{self.shards.num_bytes() / 1e6:.1f}", "-" if rate is None else f"{rate:.2f}"]
        return table(("images", "classes", "shards", "MB", "images/s"), [figures])

    def _others_at_work(self) -> str:
        missing = self.shards.missing()
        ranks = sorted({shard.number % self.world_size for shard in missing})
        shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
        return f"rank {shown}: {len(missing)} of {len(self.shards.shards)} shards are missing"

    def _write_card(self) -> None:
        self.shards.finish(self.card(self.shards.shards, self.shards.num_bytes()))

    def _complete(self, values: Mapping[str, Any]) -> None:
        """Fill in what was left to the model's family."""
        open_settings = ("num_inference_steps", "guidance_scale")
        found = {name: values[name] for name in open_settings if getattr(self.settings, name) is None}
        self.settings = dataclasses.replace(self.settings, **found)

    def _settle(self, inference: Inference) -> None:
        self.shards.settle(manifest(self.settings, self.samples, self.source, inference, self.device))


def _at_commits(given: LoraLike, argument: str) -> tuple[Lora, ...]:
    """Those LoRAs, each at the commit that its name on the Hub stands for now."""
    return tuple(
        dataclasses.replace(lora, revision=hub_commit(lora.source)) for lora in as_loras(given, argument=argument)
    )
