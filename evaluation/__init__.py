"""Everything that measures: functions of arrays and predictions that train nothing."""

from .factor_statistics import FactorStatistics, class_accuracy, factor_entropy, own_share

__all__ = ["FactorStatistics", "class_accuracy", "factor_entropy", "own_share"]
