"""Segmenters and detectors with random weights, as small as their configurations allow."""

import torch
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    Sam3Config,
    Sam3ImageProcessor,
    Sam3Model,
    Sam3Processor,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SwinConfig,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
)

from ubgen_training.mini.tokenizer import build_tokenizer

NAMES = ["circle", "star"]


def segformer(folder, names):
    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=[8, 8, 8, 8], depths=[1] * 4, decoder_hidden_size=8, num_attention_heads=[1] * 4,
        id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
    )  # fmt: skip
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)


def mask2former(folder, names):
    torch.manual_seed(0)
    backbone = SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 1, 1], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone.to_dict(), feature_size=32, mask_feature_size=32, hidden_dim=32,
        num_attention_heads=1, encoder_layers=1, decoder_layers=2, encoder_feedforward_dim=8, dim_feedforward=8,
        num_queries=5,
        id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
    )  # fmt: skip
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)


def yolos(folder, names):
    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=[64, 64],
        patch_size=16, num_detection_tokens=6, id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )  # fmt: skip
    YolosForObjectDetection(config).save_pretrained(folder)
    YolosImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)


def owlv2(folder, names):
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    config = Owlv2Config(
        text_config={**sizes, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 24},
        vision_config={**sizes, "image_size": 64, "patch_size": 16},
        projection_dim=8,
    )
    Owlv2ForObjectDetection(config).save_pretrained(folder)
    Owlv2Processor(Owlv2ImageProcessor(size={"height": 64, "width": 64}), tokenizer).save_pretrained(folder)


def sam3(folder):
    """SAM 3, which takes words; the queries of an untrained one score nearly alike."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 16}
    backbone = {
        **small, "model_type": "sam3_vit_model", "num_hidden_layers": 1, "image_size": 56, "patch_size": 14,
        "pretrain_image_size": 56, "window_size": 2, "global_attn_indexes": [0],
    }  # fmt: skip
    layers = {**small, "num_layers": 1}
    config = Sam3Config(
        vision_config={"backbone_config": backbone, "fpn_hidden_size": 32,
                       "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
        text_config={"model_type": "clip_text_model", **small, **ids, "vocab_size": len(tokenizer),
                     "num_hidden_layers": 1, "max_position_embeddings": 32, "projection_dim": 32},
        geometry_encoder_config=layers, detr_encoder_config=layers,
        detr_decoder_config={**layers, "num_queries": 5},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )  # fmt: skip
    Sam3Model(config).save_pretrained(folder)
    images = Sam3ImageProcessor(size={"height": 56, "width": 56})
    Sam3Processor(images, tokenizer, target_size=56).save_pretrained(folder)
