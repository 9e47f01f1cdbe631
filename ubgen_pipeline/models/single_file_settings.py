"""The settings of a Stable Diffusion checkpoint in one file: its sizes, scheduler and tokenizers.

The file says nothing of them. For Stable Diffusion 1.x, 2.x and XL all of it follows from the weights' shapes, and the
tokenizer is the one that open_clip ships, so that no network is needed.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from .single_file_kinds import (
    FIRST_LAYER,
    UNET,
    VAE,
    family_of_kind,
    is_stable_diffusion,
    kind_of_file,
    settings_beside,
    weight_shapes,
)

_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
_PREDICTIONS = {"v": "v_prediction", "v_prediction": "v_prediction", "eps": "epsilon", "epsilon": "epsilon"}


def write_settings(file: Path, kind: str, folder: Path) -> None:
    """Write the settings of a Stable Diffusion checkpoint in diffusers layout, without weights.

    Raises:
        ValueError: whether Stable Diffusion 2 predicts noise or velocities is not said; the text follows the file's
            name.
    """
    shapes = weight_shapes(file)
    is_xl = family_of_kind(kind) == "sdxl"
    prediction = _prediction(file, kind)
    size = 1024 if is_xl else 768 if (kind, prediction) == ("v2", "v_prediction") else 512
    unet, vae = _unet_config(shapes, kind), _vae_config(shapes, kind)
    if unet["in_channels"] != vae["latent_channels"] or (not is_xl and "addition_embed_type" in unet):
        raise ValueError(
            "whose UNet reads more than an image's latents and a text, as models do that edit images or follow depth;"
            " give one that draws from text alone"
        )
    if kind == "playground-v2-5":
        vae |= _latent_statistics(file)
    unet["sample_size"] = size // 2 ** (len(vae["block_out_channels"]) - 1)
    vae["sample_size"] = size
    index: dict[str, Any] = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    _write(folder / "unet" / "config.json", unet)
    _write(folder / "vae" / "config.json", vae)
    if is_xl:
        index |= {
            "_class_name": "StableDiffusionXLPipeline",
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "force_zeros_for_empty_prompt": True,
        }
        scheduler: dict[str, Any] = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
        _write(folder / "text_encoder" / "config.json", _clip_config(shapes, "conditioner.embedders.0.transformer."))
        _write(folder / "text_encoder_2" / "config.json", _open_clip_config(shapes, "conditioner.embedders.1.model."))
    else:
        index |= {
            "_class_name": "StableDiffusionPipeline",
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
            "scheduler": ["diffusers", "PNDMScheduler" if kind == "v1" else "DDIMScheduler"],
        }
        scheduler = {"_class_name": index["scheduler"][1], "set_alpha_to_one": False, "clip_sample": False}
        scheduler |= {"skip_prk_steps": True} if kind == "v1" else {}
        encoder: dict[str, Any] = (
            _clip_config(shapes, "cond_stage_model.transformer.")
            if kind == "v1"
            else _open_clip_config(shapes, "cond_stage_model.model.") | {"architectures": ["CLIPTextModel"]}
        )
        if "cond_stage_model.model.transformer.resblocks.23.ln_1.weight" in shapes:
            # its prompts are read from the last layer but one, and the converter leaves the last one out
            encoder["num_hidden_layers"] -= 1
        _write(folder / "text_encoder" / "config.json", encoder)
    scheduler |= {**_NOISE, "steps_offset": 1, "prediction_type": prediction}
    if kind == "playground-v2-5":
        # with noise as Karras et al. (2022) have it; these are diffusers' own settings of that scheduler
        scheduler = {"_class_name": "EDMDPMSolverMultistepScheduler", "prediction_type": prediction}
        index["scheduler"] = ["diffusers", "EDMDPMSolverMultistepScheduler"]
    if "ztsnr" in shapes:
        scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    _write(folder / "scheduler" / "scheduler_config.json", scheduler)
    _write(folder / "model_index.json", index)
    # OpenCLIP pads with the token of number 0
    clip_tokenizer("!" if kind == "v2" else "<|endoftext|>").save_pretrained(folder / "tokenizer")
    if is_xl:
        clip_tokenizer("!").save_pretrained(folder / "tokenizer_2")


def denoiser_config_of_file(file: Path) -> dict[str, Any]:
    """What the shapes of a UNet's weights say of its configuration; nothing for other families."""
    kind = kind_of_file(file)
    return _unet_config(weight_shapes(file), kind) if is_stable_diffusion(kind) else {}


def _prediction(file: Path, kind: str) -> str:
    """What the UNet predicts: as the settings beside it or its own metadata say; else what is usual for the kind."""
    from safetensors import safe_open

    if (beside := settings_beside(file)) is not None:
        try:
            stated = yaml.safe_load(beside.read_text(encoding="utf-8"))["model"]["params"].get(
                "parameterization", "eps"
            )
        except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"whose {beside.name} is no file of settings as its authors write them") from error
        if stated not in _PREDICTIONS:
            raise ValueError(f"whose {beside.name} has the parameterization {stated!r}; eps and v are known")
        return _PREDICTIONS[stated]
    with safe_open(file, framework="pt") as weights:
        stated = (weights.metadata() or {}).get("modelspec.prediction_type")
        if stated in _PREDICTIONS:
            return _PREDICTIONS[stated]
        if "v_pred" in weights.keys():  # noqa: SIM118
            return "v_prediction"
    if kind == "v2":
        raise ValueError(
            "a checkpoint of Stable Diffusion 2, which predicts noise at 512 pixels and velocities at 768, and does"
            f" not say which; put its authors' settings beside it as {file.with_suffix('.yaml').name}, with"
            " `model: {params: {parameterization: v}}` for velocities or `eps` for noise"
        )
    return "epsilon"


def _unet_config(shapes: Mapping[str, torch.Tensor], kind: str) -> dict[str, Any]:
    channels: list[int] = []
    layers: list[int] = []
    depths: list[int] = []
    blocks = {int(name.split(".")[3]) for name in shapes if name.startswith(f"{UNET}input_blocks.")}
    for block in sorted(blocks):
        begin = f"{UNET}input_blocks.{block}."
        resnet = shapes.get(f"{begin}0.out_layers.3.weight")
        if resnet is None:
            # the first layer, or one that halves the size: a level begins
            layers.append(0)
            depths.append(0)
            channels.append(0)
            continue
        channels[-1], layers[-1] = resnet.shape[0], layers[-1] + 1
        inside = [name for name in shapes if name.startswith(f"{begin}1.transformer_blocks.")]
        depths[-1] = max([depths[-1], *(1 + int(name.split(".")[6]) for name in inside)])
    own = {name: weight for name, weight in shapes.items() if name.startswith(UNET)}
    texts = [weight for name, weight in own.items() if name.endswith("attn2.to_k.weight")]
    projections = [weight for name, weight in own.items() if name.endswith(".proj_in.weight")]
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    config = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": shapes[FIRST_LAYER].shape[1],
        "out_channels": shapes[f"{UNET}out.2.weight"].shape[0],
        "block_out_channels": channels,
        "layers_per_block": layers[0],
        "down_block_types": down,
        "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
        "cross_attention_dim": texts[0].shape[1],
        "use_linear_projection": projections[0].ndim == 2,
        # the number of heads, by its old name: 8, or as many as have a width of 64
        "attention_head_dim": 8 if kind == "v1" else [max(1, width // 64) for width in channels],
        "transformer_layers_per_block": [depth or 1 for depth in depths],
    }
    if (added := shapes.get(f"{UNET}label_emb.0.0.weight")) is not None:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": added.shape[1],
        }
    return config


def _vae_config(shapes: Mapping[str, torch.Tensor], kind: str) -> dict[str, Any]:
    begin = re.compile(rf"{re.escape(VAE)}encoder\.down\.(\d+)\.block\.(\d+)\.conv2\.weight")
    blocks = {(int(m[1]), int(m[2])): shapes[name] for name in shapes if (m := begin.fullmatch(name))}
    channels = [blocks[level, 0].shape[0] for level in sorted({level for level, _ in blocks})]
    config = {
        "_class_name": "AutoencoderKL",
        "latent_channels": shapes[f"{VAE}decoder.conv_in.weight"].shape[1],
        "block_out_channels": channels,
        "layers_per_block": sum(level == 0 for level, _ in blocks),
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "scaling_factor": 0.18215,
    }
    if family_of_kind(kind) == "sdxl":
        config |= {"scaling_factor": 0.13025, "force_upcast": True}
    return config


def _latent_statistics(file: Path) -> dict[str, Any]:
    """The VAE's settings of Playground 2.5, whose checkpoint holds the mean and deviation of the latents."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        mean, std = (weights.get_tensor(name).flatten().tolist() for name in ("edm_mean", "edm_std"))
    return {"scaling_factor": 0.5, "latents_mean": mean, "latents_std": std}


def _clip_config(shapes: Mapping[str, torch.Tensor], begin: str) -> dict[str, Any]:
    """OpenAI's CLIP, as transformers writes it."""
    begin = f"{begin}text_model."
    width = shapes[f"{begin}embeddings.token_embedding.weight"].shape[1]
    layers = [
        name for name in shapes if name.startswith(f"{begin}encoder.layers.") and name.endswith("mlp.fc1.weight")
    ]
    return _text_config(
        shapes[f"{begin}embeddings.token_embedding.weight"],
        length=shapes[f"{begin}embeddings.position_embedding.weight"].shape[0],
        num_layers=len(layers),
        inner=shapes[layers[0]].shape[0],
        projection=width,
        act="quick_gelu",
        architecture="CLIPTextModel",
    )


def _open_clip_config(shapes: Mapping[str, torch.Tensor], begin: str) -> dict[str, Any]:
    layers = [name for name in shapes if name.startswith(f"{begin}transformer.") and name.endswith("mlp.c_fc.weight")]
    # Stable Diffusion 2 does not use it, and files that were made from diffusers' folders have none
    projection = shapes.get(f"{begin}text_projection", shapes[f"{begin}token_embedding.weight"])
    return _text_config(
        shapes[f"{begin}token_embedding.weight"],
        length=shapes[f"{begin}positional_embedding"].shape[0],
        num_layers=len(layers),
        inner=shapes[layers[0]].shape[0],
        projection=projection.shape[1],
        act="gelu",
        architecture="CLIPTextModelWithProjection",
    )


def _text_config(
    embedding: torch.Tensor, *, length: int, num_layers: int, inner: int, projection: int, act: str, architecture: str
) -> dict[str, Any]:
    size, width = embedding.shape
    return {
        "model_type": "clip_text_model",
        "architectures": [architecture],
        "vocab_size": size,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": num_layers,
        # heads of 64, as all of them have
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": length,
        "projection_dim": projection,
        "hidden_act": act,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 1,
    }


def clip_tokenizer(pad: str) -> Any:
    """CLIP's, from the vocabulary that open_clip ships."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    simple = SimpleTokenizer()
    vocab = {
        token.replace("<start_of_text>", "<|startoftext|>").replace("<end_of_text>", "<|endoftext|>"): number
        for token, number in simple.encoder.items()
    }
    merges: list[Any] = [pair for pair, _ in sorted(simple.bpe_ranks.items(), key=lambda item: item[1])]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77, pad_token=pad)


def _write(file: Path, settings: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
