"""FLUX.2 in small, klein and dev: random weights, built without a download."""

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel

from .qwen import qwen3_config, qwen_tokenizer, speak_up

_MISTRAL_MARKS = ("<pad>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]")
_MISTRAL_MARKS += ("[IMG_BREAK]", "[IMG_END]")
_MISTRAL_TEMPLATE = (
    "<s>{% for message in messages %}{% set mark = 'SYSTEM_PROMPT' if message['role'] == 'system' else 'INST' %}"
    "[{{ mark }}]{% for part in message['content'] %}{{ part['text'] }}{% endfor %}[/{{ mark }}]{% endfor %}"
)

# layers of a text encoder as small as this one, and a filling as short as letters for tokens allow
STOCK = {"text_encoder_out_layers": (1, 2, 3), "max_sequence_length": 256}


def build(
    kind: str = "klein-base",
    *,
    num_layers: int = 1,
    num_single_layers: int = 2,
    num_text_layers: int = 4,
    text_width: int = 16,
    latent_channels: int = 4,
    guidance_embeds: bool | None = None,
):
    """A ``Flux2KleinPipeline`` or ``Flux2Pipeline`` in evaluation mode; equal arguments give equal weights.

    Args:
        kind: ``klein``, distilled; ``klein-base``; or ``dev``, whose text encoder is Mistral's.
        num_layers, num_single_layers: blocks of the transformer, of two streams and of one.
        num_text_layers: of the text encoder.
        text_width: its width; the features of three of its layers make up the conditioning.
        latent_channels: of the VAE, a quarter of the transformer's.
        guidance_embeds: whether the transformer reads the guidance; None: as it is for this kind.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = diffusers.Flux2Transformer2DModel(
            patch_size=1,
            in_channels=4 * latent_channels,
            num_layers=num_layers,
            num_single_layers=num_single_layers,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * text_width,
            timestep_guidance_channels=32,
            axes_dims_rope=[4, 4, 4, 4],
            guidance_embeds=kind == "dev" if guidance_embeds is None else guidance_embeds,
        )
        vae = diffusers.AutoencoderKLFlux2(
            sample_size=32,
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(4, 8),
            layers_per_block=1,
            latent_channels=latent_channels,
            norm_num_groups=4,
        )
        # as a trained one has them; a new one's are those of a standard normal
        torch.nn.init.normal_(vae.bn.running_mean, std=0.3)
        torch.nn.init.uniform_(vae.bn.running_var, 0.5, 2.0)
        parts = {
            "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            "vae": vae.eval(),
            "transformer": transformer.eval(),
        }
        if kind == "dev":
            processor = _mistral_processor()
            encoder = transformers.Mistral3ForConditionalGeneration(
                _mistral_config(len(processor.tokenizer), text_width, num_text_layers)
            )
            return diffusers.Flux2Pipeline(text_encoder=speak_up(encoder), tokenizer=processor, **parts)
        tokenizer = qwen_tokenizer()
        config = qwen3_config(len(tokenizer), text_width, num_text_layers)
        return diffusers.Flux2KleinPipeline(
            text_encoder=speak_up(transformers.Qwen3ForCausalLM(config)),
            tokenizer=tokenizer,
            is_distilled=kind == "klein",
            **parts,
        )


def _mistral_config(vocabulary_size: int, width: int, num_layers: int) -> transformers.Mistral3Config:
    return transformers.Mistral3Config(
        text_config={
            "model_type": "mistral",
            "hidden_size": width,
            "intermediate_size": 16,
            "num_hidden_layers": num_layers,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "vocab_size": vocabulary_size,
            "max_position_embeddings": 1024,
        },
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 8,
            "image_size": 32,
            "patch_size": 16,
        },
        image_token_index=_MISTRAL_MARKS.index("[IMG]"),
    )


def _mistral_processor() -> transformers.PixtralProcessor:
    vocabulary = {token: number for number, token in enumerate([*_MISTRAL_MARKS, *sorted(ByteLevel.alphabet())])}
    letters = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=letters,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(_MISTRAL_MARKS[3:]),
        padding_side="left",
    )
    return transformers.PixtralProcessor(
        image_processor=transformers.PixtralImageProcessor(),
        tokenizer=tokenizer,
        patch_size=16,
        chat_template=_MISTRAL_TEMPLATE,
    )
