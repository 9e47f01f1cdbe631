"""Rebuild the mini model from nothing: autoencoder, CLIP, judges, the denoiser on the biased world, then its LoRAs.

    python training/train_mini.py                       # every stage, resuming from --work-dir
    python training/train_mini.py --stages denoiser     # one stage
    python training/train_mini.py --stages measure      # print the quality figures only

Weights end as fp16 safetensors inside the package.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from diffusers import AutoencoderKL
from safetensors import safe_open

import ubgen_training.denoising.command
import ubgen_training.ubgen.command
from ubgen_pipeline.files.tensor_files import give_ordinary_permissions, save_tensors
from ubgen_pipeline.generation.generate import generate_dataset
from ubgen_pipeline.mini import mini_caption_lora_path, mini_clip_path, mini_lora_path, mini_model_path
from ubgen_pipeline.mini.clip import load_mini_clip
from ubgen_pipeline.mini.judges import load_factor_classifier, predict_factors
from ubgen_pipeline.mini.scenes import BACKGROUND_NAMES, CLASS_NAMES, OWN_BACKGROUND, OWN_TEXTURE, TEXTURE_NAMES
from ubgen_pipeline.mini.weights import save_float16
from ubgen_pipeline.scoring.filter import FilterSettings, filter_dataset
from ubgen_pipeline.scoring.score import ScoreCommandSettings, score_dataset
from ubgen_training.checkpoints.folders import newest_checkpoint
from ubgen_training.mini.autoencoder import encode_latents, reconstruction_psnr, refine_decoder, train_autoencoder
from ubgen_training.mini.denoiser import assemble_pipeline, prompt_table, train_denoiser
from ubgen_training.mini.judges import train_clip, train_factor_classifier, train_quality_scorer, zero_shot_accuracy
from ubgen_training.mini.library_internals import computes_in_bfloat16
from ubgen_training.mini.scene_batches import render_set
from ubgen_training.mini.tokenizer import build_tokenizer

STAGES = ("autoencoder", "clip", "judges", "denoiser", "caption-lora", "lora", "measure")
WORLD_BIAS = 0.95
JUDGE_FOLDER = Path(mini_model_path()).parent / "classifier"
CONFIGS = Path(__file__).parent / "configs"
# of the images that the LoRA for bare class names is trained on, and of that training
LORA_SEED = 1001


def build_autoencoder_stage(settings: argparse.Namespace) -> None:
    # background and texture vary here, so that the latents can carry every combination
    data = render_set(20_000, bias=0.3, seed=11)
    model = train_autoencoder(data, settings.work_dir, num_steps=settings.autoencoder_steps)
    refine_decoder(model, data, settings.work_dir, num_steps=settings.decoder_steps)
    model.save_pretrained(settings.work_dir / "vae")


def build_clip_stage(settings: argparse.Namespace) -> None:
    tokenizer, folder = build_tokenizer(), Path(mini_clip_path())
    clip = train_clip(render_set(30_000, bias=0.0, seed=21), tokenizer, num_steps=settings.clip_steps)
    save_float16(clip, folder / "model.safetensors")
    tokenizer.save_pretrained(folder)
    config = {"vocabulary_size": len(tokenizer), "context_length": tokenizer.model_max_length}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def build_judges_stage(settings: argparse.Namespace) -> None:
    # other scenes than the CLIP's, so that the judge is independent of the reward
    judge_data = render_set(30_000, bias=0.0, seed=31)
    classifier = train_factor_classifier(judge_data, num_steps=settings.judge_steps)
    save_float16(classifier, JUDGE_FOLDER / "factors.safetensors")
    scorer = train_quality_scorer(judge_data, num_steps=settings.quality_steps)
    save_float16(scorer, JUDGE_FOLDER / "quality.safetensors")


def build_denoiser_stage(settings: argparse.Namespace) -> None:
    tokenizer = build_tokenizer()
    vae = AutoencoderKL.from_pretrained(settings.work_dir / "vae").eval()
    data = render_set(settings.denoiser_scenes, bias=WORLD_BIAS, seed=41)
    latents = encode_latents(vae, data.images)
    prompts = prompt_table(
        [factors.caption for factors in data.factors], [factors.class_name for factors in data.factors], tokenizer
    )
    unet, text_encoder = train_denoiser(
        latents,
        prompts,
        tokenizer,
        settings.work_dir,
        num_steps=settings.denoiser_steps,
        max_seconds=settings.max_minutes * 60,
    )
    save_mini_pipeline(vae, unet, text_encoder, tokenizer)


def save_mini_pipeline(vae, unet, text_encoder, tokenizer) -> None:
    """Write the shipped folder: fp16 weights under unsuffixed names."""
    folder = Path(mini_model_path())
    assemble_pipeline(vae.half(), unet.half(), text_encoder.half(), tokenizer).save_pretrained(folder)
    give_ordinary_permissions(*folder.glob("*/*.safetensors"))
    # plain transformers would otherwise load fp16 text weights beside a float32 UNet
    config_file = folder / "text_encoder" / "config.json"
    config = json.loads(config_file.read_text()) | {"dtype": "float32"}
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def build_caption_lora_stage(settings: argparse.Namespace) -> None:
    """The LoRA for prompts that name a texture and a background, trained with rewards alone."""
    _train_lora(
        ubgen_training.ubgen.command.main,
        ["--config", str(CONFIGS / "mini_captioned.yaml")],
        settings.work_dir / "caption-lora",
        Path(mini_caption_lora_path()),
    )


def build_lora_stage(settings: argparse.Namespace) -> None:
    """The LoRA for bare class names: trained on those images of the other one of whose class the mini CLIP is sure."""
    work_dir = settings.work_dir / "images"
    work_dir.mkdir(exist_ok=True)
    contexts = yaml.safe_load((CONFIGS / "mini_contexts.yaml").read_text(encoding="utf-8"))
    # as the other one was trained
    contexts["templates"] = [f"a photo of a {template}" for template in contexts["templates"]]
    classes = work_dir / "classes.yaml"
    classes.write_text(yaml.safe_dump(contexts, sort_keys=False), encoding="utf-8")
    generate_dataset(
        classes,
        work_dir / "drawn",
        lora=mini_caption_lora_path(),
        samples_per_class=300,
        num_inference_steps=10,
        guidance_scale=1.0,
        seed=LORA_SEED,
        device="cpu",
        compile="off",
    )
    asked = ScoreCommandSettings(output_dir=str(work_dir / "scored"), scores=["clip"], clip_model="mini", device="cpu")
    score_dataset(work_dir / "drawn", asked)
    rules = FilterSettings(
        output_dir=str(work_dir / "kept"), zero_shot_correct=True, min_zero_shot_probability=0.7, max_per_class=200
    )
    filter_dataset(work_dir / "scored", rules)
    argv = ["--config", str(CONFIGS / "mini_distilled.yaml"), "--dataset", str(work_dir / "kept")]
    argv += ["--seed", str(LORA_SEED)]
    _train_lora(ubgen_training.denoising.command.main, argv, settings.work_dir / "lora", Path(mini_lora_path()))


def _train_lora(train: Callable[[list[str]], int], argv: list[str], output_dir: Path, file: Path) -> None:
    """Train by that command, resumed from ``output_dir``, and write the LoRA to ``file`` in fp16."""
    argv = [*argv, "--output_dir", str(output_dir), "--use_cpu", "true"]
    argv += ["--bf16", str(computes_in_bfloat16()).lower()]
    if newest_checkpoint(output_dir) is not None:
        argv += ["--resume_from_checkpoint", "last"]
    if code := train(argv):
        raise SystemExit(code)
    write_half_lora(output_dir / file.name, file)


def write_half_lora(trained: Path, file: Path) -> None:
    """The LoRA in the file ``trained``, rounded to fp16."""
    file.parent.mkdir(exist_ok=True)
    # its metadata hold the alpha
    with safe_open(trained, "pt") as source:
        weights = {name: source.get_tensor(name).half() for name in source.keys()}  # noqa: SIM118 - no mapping
        save_tensors(weights, file, metadata=source.metadata())


def measure_stage(settings: argparse.Namespace) -> dict[str, float]:
    """Print the figures that the documents quote."""
    from diffusers import StableDiffusionPipeline

    held_out = render_set(2000, bias=0.0, seed=99)
    clip, tokenize = load_mini_clip()
    pipeline = StableDiffusionPipeline.from_pretrained(mini_model_path(), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    judged = predict_factors(held_out.images.permute(0, 2, 3, 1).numpy())
    figures = {
        "clip_zero_shot_accuracy": zero_shot_accuracy(clip, tokenize, held_out),
        "classifier_accuracy_on_scenes": float((judged["class"] == held_out.labels.numpy()).mean()),
        "autoencoder_psnr_db": reconstruction_psnr(pipeline.vae, held_out.images),
    }
    images, labels, started = [], [], time.monotonic()
    for start in range(0, settings.measure_images, 50):
        names = [CLASS_NAMES[i % len(CLASS_NAMES)] for i in range(start, start + 50)]
        generators = [torch.Generator().manual_seed(i) for i in range(start, start + 50)]
        drawn = pipeline(names, num_inference_steps=50, guidance_scale=2.0, generator=generators, output_type="np")
        assert not isinstance(drawn, tuple)
        images.append(drawn.images)
        labels += names
    predicted = predict_factors((np.concatenate(images) * 255).round().astype(np.uint8), load_factor_classifier())
    own_background = [BACKGROUND_NAMES.index(OWN_BACKGROUND[name]) for name in labels]
    own_texture = [TEXTURE_NAMES.index(OWN_TEXTURE[name]) for name in labels]
    figures |= {
        "base_class_accuracy": float((predicted["class"] == [CLASS_NAMES.index(name) for name in labels]).mean()),
        "base_own_background": float((predicted["background"] == own_background).mean()),
        "base_own_texture": float((predicted["texture"] == own_texture).mean()),
        "base_images_per_second": len(labels) / (time.monotonic() - started),
    }
    print(json.dumps(figures, indent=2))
    return figures


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Rebuild the embedded mini model.")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--work-dir", type=Path, default=Path("build/mini"), help="resumable training states")
    parser.add_argument("--autoencoder-steps", type=int, default=3300)
    parser.add_argument("--decoder-steps", type=int, default=2000)
    parser.add_argument("--clip-steps", type=int, default=1200)
    parser.add_argument("--judge-steps", type=int, default=2500)
    parser.add_argument("--quality-steps", type=int, default=500)
    parser.add_argument("--denoiser-steps", type=int, default=5500)
    parser.add_argument("--denoiser-scenes", type=int, default=30_000)
    parser.add_argument(
        "--max-minutes", type=float, default=float("inf"), help="stop the denoiser early; run again to go on"
    )
    parser.add_argument("--measure-images", type=int, default=500)
    parser.add_argument("--threads", type=int, default=None)
    settings = parser.parse_args(argv)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    stages = {
        "autoencoder": build_autoencoder_stage,
        "clip": build_clip_stage,
        "judges": build_judges_stage,
        "denoiser": build_denoiser_stage,
        "caption-lora": build_caption_lora_stage,
        "lora": build_lora_stage,
        "measure": measure_stage,
    }
    for name in settings.stages:
        print(f"stage {name}", flush=True)
        stages[name](settings)


if __name__ == "__main__":
    main()
