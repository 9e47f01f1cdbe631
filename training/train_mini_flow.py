"""Train the mini flow model: the mini world as a transformer in Stable Diffusion 3's layout, with flow matching.

    python training/train_mini_flow.py                      # every stage, resuming from --work-dir
    python training/train_mini_flow.py --stages measure     # print the quality figures only

The autoencoder is the mini model's, with the shift and scale of these latents. Weights end as fp16 safetensors inside
the package.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from ubgen_pipeline.files.tensor_files import give_ordinary_permissions, save_tensors
from ubgen_pipeline.mini import mini_flow_path, mini_model_path
from ubgen_pipeline.mini.judges import predict_factors
from ubgen_pipeline.mini.scenes import (
    BACKGROUND_NAMES,
    CLASS_NAMES,
    OWN_BACKGROUND,
    OWN_TEXTURE,
    TEXTURE_NAMES,
    PairScene,
    SceneFactors,
    pair_scenes,
    scenes,
)
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.mini.autoencoder import build_autoencoder, encode_latents
from ubgen_training.mini.flow_model import assemble_pipeline
from ubgen_training.mini.flow_training import train_flow
from ubgen_training.mini.scene_batches import mixed_precision

STAGES = ("latents", "flow", "measure")
WORLD_BIAS = 0.95
SEED = 51


def mini_autoencoder() -> AutoencoderKL:
    """The mini model's, in float32; built here, since one that was loaded names its folder in its configuration."""
    vae = build_autoencoder()
    vae.load_state_dict(load_file(Path(mini_model_path()) / "vae" / "diffusion_pytorch_model.safetensors"))
    return vae.eval()


def latents_stage(settings: argparse.Namespace) -> None:
    """Render the scenes, a quarter of them of two objects, and keep their unscaled latents and their factors."""
    vae = mini_autoencoder()
    num_pairs = settings.num_scenes // 4
    rendered = [
        *scenes(settings.num_scenes - num_pairs, bias=WORLD_BIAS, seed=SEED),
        *pair_scenes(num_pairs, bias=WORLD_BIAS, seed=SEED + 1),
    ]
    parts = []
    for start in range(0, len(rendered), 1000):
        images = np.stack([scene.image for scene in rendered[start : start + 1000]])
        # twice as fast as float32, and the rounding is a 200th of the latents' deviation
        with mixed_precision():
            encoded = encode_latents(vae, torch.from_numpy(images).permute(0, 3, 1, 2), scaled=False)
        parts.append(encoded.float())
        print(f"latents {start + len(images)}/{len(rendered)}", flush=True)
    objects = [scene.factors if isinstance(scene, PairScene) else (scene.factors,) for scene in rendered]
    factors = [[asdict(item) for item in row] for row in objects]
    (settings.work_dir / "factors.json").write_text(json.dumps(factors), encoding="utf-8")
    save_tensors({"latents": torch.cat(parts).contiguous()}, settings.work_dir / "latents.safetensors")


def flow_stage(settings: argparse.Namespace) -> None:
    tokenizer, vae = CLIPTokenizer.from_pretrained(mini_model_path(), subfolder="tokenizer"), mini_autoencoder()
    latents = load_file(settings.work_dir / "latents.safetensors")["latents"]
    factors = json.loads((settings.work_dir / "factors.json").read_text(encoding="utf-8"))
    shift, scale = float(latents.mean()), float(1 / latents.std())
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    transformer, text_encoders = train_flow(
        (latents - shift) * scale,
        [[SceneFactors(**item) for item in row] for row in factors],
        tokenizer,
        settings.work_dir,
        num_steps=settings.num_steps,
        max_seconds=settings.max_minutes * 60,
        start_weights=package_weights() if settings.package_step else None,
        start_step=settings.package_step,
    )
    save_mini_flow(assemble_pipeline(vae, transformer, text_encoders, tokenizer))


def package_weights() -> dict[str, dict[str, torch.Tensor]]:
    """What the package has now, in float32."""
    files = {
        "transformer": "diffusion_pytorch_model.safetensors",
        "text_encoder": "model.safetensors",
        "text_encoder_2": "model.safetensors",
    }
    folder = Path(mini_flow_path())
    return {
        part: {name: value.float() for name, value in load_file(folder / part / file).items()}
        for part, file in files.items()
    }


def save_mini_flow(pipeline) -> None:
    """Write the shipped folder: fp16 weights under unsuffixed names."""
    folder = Path(mini_flow_path())
    pipeline.to(dtype=torch.float16).save_pretrained(folder)
    give_ordinary_permissions(*folder.glob("*/*.safetensors"))
    for name in ("text_encoder", "text_encoder_2"):
        # plain transformers would otherwise load fp16 text weights beside a float32 transformer
        config_file = folder / name / "config.json"
        config = json.loads(config_file.read_text()) | {"dtype": "float32"}
        config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def measure_stage(settings: argparse.Namespace) -> dict[str, float]:
    """Print the figures that the documents quote: images of bare class names, with the family's own settings."""
    pipeline = load_pipeline("mini-flow")
    pipeline.set_progress_bar_config(disable=True)
    images, labels, started = [], [], time.monotonic()
    for start in range(0, settings.measure_images, 50):
        names = [CLASS_NAMES[i % len(CLASS_NAMES)] for i in range(start, start + 50)]
        images.append(pipeline(names, seeds=range(start, start + 50), output_type="np").images)
        labels += names
    predicted = predict_factors((np.concatenate(images) * 255).round().astype(np.uint8))
    own_background = [BACKGROUND_NAMES.index(OWN_BACKGROUND[name]) for name in labels]
    own_texture = [TEXTURE_NAMES.index(OWN_TEXTURE[name]) for name in labels]
    figures = {
        "class_accuracy": float((predicted["class"] == [CLASS_NAMES.index(name) for name in labels]).mean()),
        "own_background": float((predicted["background"] == own_background).mean()),
        "own_texture": float((predicted["texture"] == own_texture).mean()),
        "images_per_second": len(labels) / (time.monotonic() - started),
    }
    print(json.dumps(figures, indent=2))
    return figures


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the embedded mini flow model.")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--work-dir", type=Path, default=Path("build/mini-flow"), help="resumable training state")
    parser.add_argument("--num-scenes", type=int, default=25_000)
    parser.add_argument("--num-steps", type=int, default=16_000)
    parser.add_argument(
        "--package-step",
        type=int,
        default=0,
        help="without a state in --work-dir, begin with the package's weights, which are those after this update",
    )
    parser.add_argument("--max-minutes", type=float, default=float("inf"), help="stop early; run again to go on")
    parser.add_argument("--measure-images", type=int, default=500)
    settings = parser.parse_args(argv)
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    stages = {"latents": latents_stage, "flow": flow_stage, "measure": measure_stage}
    for name in settings.stages:
        print(f"stage {name}", flush=True)
        stages[name](settings)


if __name__ == "__main__":
    main()
