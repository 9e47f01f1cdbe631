"""Trains the mini layout in runs of a few updates: called by tests, or launched by them in several processes.

    accelerate launch --config_file training/configs/accelerate/ddp.yaml --num_processes 2 \\
        tests/support/training_worker.py JOBS.json

``JOBS.json`` holds ``launcher`` (ddp, fsdp2 or deepspeed, all on the CPU over gloo) and ``runs``, one set of arguments
of :func:`run` each. The environment must set ``ACCELERATE_USE_CPU`` for ddp, ``ACCELERATE_TORCH_DEVICE=cpu`` else.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from transformers import TrainerCallback

from ubgen_pipeline.files import whole_files
from ubgen_pipeline.models.clip_encoders import load_clip_encoder
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.checkpoints import trainer as trainer_checkpoints
from ubgen_training.command import end_process_group
from ubgen_training.ddpo.ddpo_config import DDPOConfig
from ubgen_training.ddpo.ddpo_trainer import DDPOTrainer
from ubgen_training.ddpo.policy_sampler import PolicySampler
from ubgen_training.lora.adapter import LoraSettings
from ubgen_training.nft.forward_sampler import ForwardSampler
from ubgen_training.nft.nft_config import NFTConfig
from ubgen_training.nft.nft_trainer import NFTTrainer
from ubgen_training.rewards.logdet_variety import LogDetVarietyReward
from ubgen_training.sampler.prompt_features import prompt_cache
from ubgen_training.sampler.sampler_model import SamplerModel, SamplingSettings
from ubgen_training.ubgen.ubgen_config import UbGenConfig
from ubgen_training.ubgen.ubgen_trainer import UbGenTrainer

NAMES = ["circle", "star", "ring"]
SETTINGS = {
    "guidance_scale": 2.0,
    "reward_weights": [1.0],
    "reward_funcs": ["brightness"],
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "lora_rank": 2,
    "learning_rate": 1e-2,
    "save_steps": 1,
    "logging_steps": 2,
    # what is drawn to watch a training takes longer than its updates
    "heldout_steps": 0,
    "sample_steps": 0,
    "seed": 3,
    "disable_tqdm": True,
}
# 18 labels; 2 x 2 of them a process and update, and an odd batch is left at the end of an epoch
UBGEN_SETTINGS = {
    "scheduler": "ddpm",  # as the command takes it for such a model
    "num_inference_steps": 2,
    "num_gradient_steps": 1,
    "discriminator_warmup_steps": 2,
    "class_repeats": 6,
}
# a rollout lasts for 4 updates, 2 of each inner epoch; one sample draws two of the three steps that add noise
DDPO_SETTINGS = {
    "dynamics": "ddpm",  # as the command takes it for such a model
    "num_inference_steps": 4,
    "num_trained_steps": 2,
    "rollout_size": 4,
    "num_inner_epochs": 2,
    "statistics_window": 4,
    "statistics_min_count": 2,
    "kl_weight": 0.1,
}
# as those of DDPO; a rollout lasts for 4 updates
NFT_SETTINGS = {
    **{name: value for name, value in DDPO_SETTINGS.items() if name != "dynamics"},
    "scheduler": "ddim",
    "old_decay": 0.9,
}

# of the commands of trainings on rollouts: two updates of two samples
ROLLOUT_FLAGS = [
    *("--class_names", "circle", "star", "--num_inference_steps", "3", "--num_trained_steps", "2", "--lora_rank", "2"),
    *("--rollout_size", "2", "--per_device_train_batch_size", "2", "--max_steps", "2", "--save_steps", "1"),
    *("--reward_funcs", "jpeg_size", "--num_samples_per_class", "1", "--use_cpu", "--disable_tqdm", "true"),
]


class BrightnessReward:
    """Mean brightness; remembers the labels and seeds it was given."""

    def __init__(self):
        self.seen = []
        self.__name__ = "brightness"

    def __call__(self, images, class_names, labels, seeds=(), **kwargs):
        self.seen.append([labels.tolist(), list(seeds)])
        return images.mean(dim=(1, 2, 3))


class ByteBrightness:
    """Mean brightness of the 8-bit image, computed outside of torch; remembers what it gave."""

    differentiable = False

    def __init__(self):
        self.seen = []
        self.__name__ = "brightness"

    def __call__(self, images, class_names, labels, **kwargs):
        values = [(image.clamp(0, 1) * 255).byte().numpy().mean() / 255 for image in images]
        self.seen.append((labels.tolist(), values))
        return torch.tensor(values, dtype=torch.float32)


class KillInsideAccumulation(TrainerCallback):
    """Kills its own process after the first micro-batch of update ``step`` + 1."""

    def __init__(self, step):
        self.step = step

    def on_substep_end(self, args, state, control, **kwargs):
        if state.global_step == self.step and args.process_index == args.world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def build_trainer(model, output_dir, clip=None, reward=None, callbacks=None, kind="ubgen", **settings):
    """A trainer of that kind on ``model``'s folder; with ``clip``, a CLIP's folder, it has the adversarial term."""
    settings = {"use_cpu": True, "output_dir": str(output_dir), **SETTINGS, **settings}
    if "prompt_features" in settings:
        settings["model_name_or_path"] = str(model)
    if kind == "ubgen":
        config = UbGenConfig(**{"adversarial_weight": 0.5 if clip else 0.0, **UBGEN_SETTINGS, **settings})
        sampler_type, trainer_type, eta = SamplerModel, UbGenTrainer, 0.0
    elif kind == "nft":
        config = NFTConfig(**{**NFT_SETTINGS, **settings})
        sampler_type, trainer_type, eta = ForwardSampler, NFTTrainer, 0.0
    else:
        config = DDPOConfig(**{**DDPO_SETTINGS, **settings})
        sampler_type, trainer_type, eta = PolicySampler, DDPOTrainer, config.eta
    pipeline = load_pipeline(model, scheduler=config.scheduler)
    encoded = []
    if config.prompt_features is not None:
        pipeline.encode = _noted(pipeline.encode, encoded)
    sampler = sampler_type(
        pipeline,
        NAMES,
        LoraSettings(config.lora_rank),
        SamplingSettings(config.num_inference_steps, config.guidance_scale, eta=eta),
        seed=config.seed,
        train_method=config.train_method,
        prompt_cache=prompt_cache(config, torch.float32),
    )
    if config.prompt_features is not None:
        file = Path(output_dir, f"encoded_{config.process_index}.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(encoded))
    encoder = load_clip_encoder(str(clip)) if clip else None
    return trainer_type(sampler, config, NAMES, reward or BrightnessReward(), encoder, callbacks=callbacks)


def _noted(encode, asked):
    """``encode``, which also adds the prompts that it is asked for to ``asked``."""

    def noted(prompts, *arguments, **settings):
        asked.extend(prompts)
        return encode(prompts, *arguments, **settings)

    return noted


def run(
    model,
    output_dir,
    clip=None,
    resume=None,
    kill_inside_step=None,
    kill_at_checkpoint=None,
    kill_rank_at_prompt=None,
    variety=False,
    **settings,
):
    """One training run; ``kill_…`` names the update that it does not survive. Returns the trainer.

    ``kill_rank_at_prompt`` is a process that dies once it has written a prompt and before it has renamed the file. In
    ``prompt_features`` a ``{rank}`` is the process's own. With ``variety`` the reward is the one that remembers images
    and compares those of all processes.
    """
    reward = LogDetVarietyReward(load_clip_encoder("mini"), NAMES, memory=4) if variety else BrightnessReward()
    callbacks = [] if kill_inside_step is None else [KillInsideAccumulation(kill_inside_step)]
    rank = os.environ.get("RANK", "0")
    if "prompt_features" in settings:
        settings["prompt_features"] = settings["prompt_features"].format(rank=rank)
    if rank == str(kill_rank_at_prompt):
        whole_files.os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
    trainer = build_trainer(model, output_dir, clip, reward, callbacks, **settings)
    commit = trainer_checkpoints.commit_checkpoint
    if kill_at_checkpoint is not None:

        def commit_or_die(folder, facts):
            if facts["step"] == kill_at_checkpoint:
                os.kill(os.getpid(), signal.SIGKILL)
            commit(folder, facts)

        trainer_checkpoints.commit_checkpoint = commit_or_die
    trainer.train(resume_from_checkpoint=resume)
    rank = trainer.args.process_index
    if isinstance(reward, BrightnessReward):
        Path(output_dir, f"seen_{rank}.json").write_text(json.dumps(reward.seen))
    else:
        save_file(tensors_of(reward.state_dict()), Path(output_dir, f"remembered_{rank}.safetensors"))
    return trainer


def tensors_of(state):
    """What a :class:`LogDetVarietyReward` has noted, as tensors by name."""
    return {"centre": state["centre"]} | {f"class {label}": rows for label, rows in state["remembered"].items()}


def main(file):
    jobs = json.loads(Path(file).read_text())
    settings = {"use_cpu": True}
    if jobs["launcher"] != "ddp":
        # accelerate shards on accelerators only; told that the CPUs are some, it runs the same code over gloo
        settings = {"use_cpu": False, "dataloader_pin_memory": False}
        PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
    for arguments in jobs["runs"]:
        trainer = run(**settings, **arguments)
        # a launcher that silently starts one process, or shards nothing, must not pass
        assert trainer.args.world_size == 2
        assert trainer.is_fsdp_enabled == (jobs["launcher"] == "fsdp2")
        assert trainer.is_deepspeed_enabled == (jobs["launcher"] == "deepspeed")
        # its model holds the process group
        del trainer
    end_process_group()
    if sys.platform == "linux" and jobs["launcher"] == "ddp":
        # one of these that outlives the interpreter aborts the process, now and then
        threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
        assert not [name for name in threads if "gloo" in name], threads


if __name__ == "__main__":
    main(sys.argv[1])
