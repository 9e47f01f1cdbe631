"""Everything that measures: functions of arrays and predictions that train nothing."""

from .factor_statistics import FactorStatistics, class_accuracy, factor_entropy, own_share
from .mask_quality import MaskQuality, mask_quality

__all__ = [
    "FactorStatistics",
    "MaskQuality",
    "class_accuracy",
    "factor_entropy",
    "mask_quality",
    "own_share",
]
