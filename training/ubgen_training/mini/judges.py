"""Training of what looks at mini images: CLIP, factor classifier and quality scorer, all on unbiased scenes."""

import random
import time
from collections.abc import Callable, Iterable

import open_clip
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTokenizer

from ubgen_pipeline.mini.clip import build_mini_clip, text_tokenizer
from ubgen_pipeline.mini.judges import FACTOR_SIZES, QUALITY_LEVELS
from ubgen_pipeline.mini.networks import ConvTower
from ubgen_pipeline.mini.scenes import CLASS_NAMES

from .scene_batches import SceneSet, index_batches, mixed_precision, to_unit_range
from .tokenizer import choose_caption, factor_table, true_pairs


def _descend(
    model: nn.Module,
    batches: Iterable[torch.Tensor],
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    *,
    name: str,
    num_steps: int,
    learning_rate: float,
) -> None:
    """AdamW with a cosine schedule; ``loss_of`` gives the scalar loss of a batch of indices ``(B,)``."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=num_steps, pct_start=0.1)
    started = time.monotonic()
    model.train()
    for step, batch in enumerate(batches, start=1):
        with mixed_precision():
            loss = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            rate = step / (time.monotonic() - started)
            print(f"{name} {step}/{num_steps} loss {loss.item():.4f} {rate:.2f} steps/s", flush=True)
    model.eval()


def contrastive_loss(similarity: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Contrastive loss with several positives a row, over rows and over columns.

    Args:
        similarity: scaled cosine similarities ``(B, T)``.
        positive: bool ``(B, T)``, at least one true in every row and column (the pair itself).
    """
    positive = positive.float()
    rows = -(similarity.log_softmax(dim=1) * positive).sum(dim=1) / positive.sum(dim=1)
    columns = -(similarity.log_softmax(dim=0) * positive).sum(dim=0) / positive.sum(dim=0)
    return (rows.mean() + columns.mean()) / 2


def train_clip(
    data: SceneSet, tokenizer: CLIPTokenizer, *, num_steps: int, batch_size: int = 128, seed: int = 0
) -> open_clip.CLIP:
    """CLIP on captions naming any of class, background and texture."""
    torch.manual_seed(seed)
    model = build_mini_clip(len(tokenizer), tokenizer.model_max_length)
    tokenize = text_tokenizer(tokenizer, tokenizer.model_max_length)
    factors, rng = factor_table(data), random.Random(seed)

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        captions, named = zip(*(choose_caption(row, rng) for row in factors[batch].tolist()))
        image_features = model.encode_image(to_unit_range(data.images[batch]), normalize=True)
        text_features = model.encode_text(tokenize(list(captions)), normalize=True)
        similarity = model.logit_scale.exp().clamp(max=50) * image_features.float() @ text_features.float().T
        return contrastive_loss(similarity, true_pairs(factors[batch], torch.tensor(named)))

    batches = index_batches(len(data), batch_size, seed=seed, start_step=0, num_steps=num_steps)
    _descend(model, batches, loss_of, name="clip", num_steps=num_steps, learning_rate=1e-3)
    return model


def train_factor_classifier(data: SceneSet, *, num_steps: int, batch_size: int = 64, seed: int = 1) -> ConvTower:
    """Cross-entropy on class, background and texture; small noise and blur keep it from reading pixel-exact cues."""
    torch.manual_seed(seed)
    model = ConvTower(sum(FACTOR_SIZES.values()))
    factors = factor_table(data)

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        images = data.images[batch].float() / 255
        blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
        share = torch.rand(len(batch), 1, 1, 1)
        images = images.lerp(blurred, share) + 0.04 * torch.rand(len(batch), 1, 1, 1) * torch.randn_like(images)
        parts = model(images).float().split(list(FACTOR_SIZES.values()), dim=1)
        losses = (F.cross_entropy(part, factors[batch, i]) for i, part in enumerate(parts))
        return sum(losses, torch.zeros(()))

    batches = index_batches(len(data), batch_size, seed=seed, start_step=0, num_steps=num_steps)
    _descend(model, batches, loss_of, name="classifier", num_steps=num_steps, learning_rate=3e-3)
    return model


def damage(images: torch.Tensor, severity: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
    """Damage ``images (B, 3, 64, 64)`` in [0, 1] by ``severity (B,)`` in [0, 1].

    ``kind (B,)`` picks noise (0), blur (1), a smooth warp of the silhouettes (2) or a blend with another image (3).
    """
    strength = severity[:, None, None, None]
    noisy = images + 0.35 * strength * torch.randn_like(images)
    small = F.interpolate(images, scale_factor=0.125, mode="area")
    coarse = F.interpolate(small, size=images.shape[-2:], mode="bilinear")
    half = F.interpolate(images, scale_factor=0.5, mode="area")
    medium = F.interpolate(half, size=images.shape[-2:], mode="bilinear")
    blurred = torch.where(strength < 0.5, images.lerp(medium, 2 * strength), medium.lerp(coarse, 2 * strength - 1))
    offsets = F.interpolate(torch.randn(len(images), 2, 8, 8), size=images.shape[-2:], mode="bicubic")
    identity = F.affine_grid(torch.eye(2, 3).expand(len(images), 2, 3), list(images.shape), align_corners=False)
    warp = identity + 0.22 * strength * offsets.permute(0, 2, 3, 1)
    warped = F.grid_sample(images, warp, padding_mode="reflection", align_corners=False)
    blended = images.lerp(images.roll(1, dims=0), 0.6 * strength)
    choices = torch.stack([noisy, blurred, warped, blended], dim=1)
    return choices[torch.arange(len(images)), kind]


def train_quality_scorer(data: SceneSet, *, num_steps: int, batch_size: int = 128, seed: int = 2) -> ConvTower:
    """Ordered classification of how badly a scene was damaged; a severity between two levels is shared by both."""
    torch.manual_seed(seed)
    model = ConvTower(len(QUALITY_LEVELS))
    num_levels = len(QUALITY_LEVELS)

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        severity, kind = torch.rand(len(batch)), torch.randint(4, (len(batch),))
        images = damage(data.images[batch].float() / 255, severity, kind)
        position = (1 - severity) * (num_levels - 1)  # 4 is untouched
        lower = position.floor().long().clamp(max=num_levels - 2)
        share = (position - lower)[:, None]
        target = F.one_hot(lower, num_levels) * (1 - share) + F.one_hot(lower + 1, num_levels) * share
        return F.cross_entropy(model(images).float(), target)

    batches = index_batches(len(data), batch_size, seed=seed, start_step=0, num_steps=num_steps)
    _descend(model, batches, loss_of, name="quality", num_steps=num_steps, learning_rate=3e-3)
    return model


@torch.no_grad()
def zero_shot_accuracy(
    model: open_clip.CLIP,
    tokenize: Callable[[list[str]], torch.Tensor],
    data: SceneSet,
    template: str = "photo of {}",
) -> float:
    """Share of scenes whose class name, among the ten, is nearest in CLIP space; ``tokenize`` makes token ids."""
    text_features = model.encode_text(tokenize([template.format(name) for name in CLASS_NAMES]), normalize=True)
    hits = 0
    for images, labels in zip(data.images.split(200), data.labels.split(200)):
        image_features = model.encode_image(to_unit_range(images), normalize=True)
        hits += int(((image_features @ text_features.T).argmax(dim=1) == labels).sum())
    return hits / len(data)
