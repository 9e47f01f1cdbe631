"""A tiny CogView4."""

import torch
from diffusers import CogView4Pipeline, CogView4Transformer2DModel, FlowMatchEulerDiscreteScheduler
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import GlmConfig, GlmModel, PreTrainedTokenizerFast

from .parts import LETTERS, kl_autoencoder


def glm_tokenizer() -> PreTrainedTokenizerFast:
    """Letters behind GLM's two marks, padded on the left."""
    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", "[gMASK]", "<sop>", "<unk>", " ", *LETTERS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    tokenizer.post_processor = TemplateProcessing(
        single="[gMASK] <sop> $A", special_tokens=[(mark, vocabulary[mark]) for mark in ("[gMASK]", "<sop>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=1024,
    )


def build(*, num_layers: int = 2, num_heads: int = 2, text_width: int = 16, seed: int = 0) -> CogView4Pipeline:
    """Random weights; 2 pixels a latent, and patches of 2 x 2 latents."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = glm_tokenizer()
        config = GlmConfig(
            hidden_size=text_width,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            vocab_size=len(tokenizer),
            max_position_embeddings=1024,
            pad_token_id=tokenizer.pad_token_id,
        )
        text_encoder = GlmModel(config).eval()
        # at the usual deviation of 0.02 a prompt would hardly change an image
        torch.nn.init.normal_(text_encoder.get_input_embeddings().weight)
        transformer = CogView4Transformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=num_layers,
            attention_head_dim=8,
            num_attention_heads=num_heads,
            text_embed_dim=text_width,
            time_embed_dim=8,
            condition_dim=4,
            sample_size=16,
        )
        vae = kl_autoencoder(4, scaling_factor=1.0, use_quant_conv=False, use_post_quant_conv=False)
    return CogView4Pipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"
        ),
    )
