"""Everything that measures: functions of arrays and predictions that train nothing but linear probes."""

from .background_gap import BackgroundGap, background_gap, coarse_correct, load_coarse_classes
from .context_bias import ContextBias, context_bias
from .diversity import Diversity, diversity
from .factor_statistics import FactorStatistics, class_accuracy, factor_entropy, own_share
from .fidelity import Fidelity, classification_accuracy_score, fidelity
from .linear_transfer import LinearTransfer, linear_transfer
from .mask_quality import MaskQuality, mask_quality
from .texture_inclination import (
    TextureInclination,
    category_decisions,
    category_probabilities,
    load_categories,
    texture_inclination,
)

__all__ = [
    "BackgroundGap",
    "ContextBias",
    "Diversity",
    "FactorStatistics",
    "Fidelity",
    "LinearTransfer",
    "MaskQuality",
    "TextureInclination",
    "background_gap",
    "category_decisions",
    "category_probabilities",
    "class_accuracy",
    "classification_accuracy_score",
    "coarse_correct",
    "context_bias",
    "diversity",
    "factor_entropy",
    "fidelity",
    "linear_transfer",
    "load_categories",
    "load_coarse_classes",
    "mask_quality",
    "own_share",
    "texture_inclination",
]
