"""Measuring what a splice keeps and loses, and what its features do on data."""

from tl_transcoders.evaluation.evaluate import evaluate as evaluate
from tl_transcoders.evaluation.feature_examples import Example as Example
from tl_transcoders.evaluation.feature_examples import FeatureScores as FeatureScores
from tl_transcoders.evaluation.feature_examples import feature_scores as feature_scores
from tl_transcoders.evaluation.feature_statistics import FeatureStatistics as FeatureStatistics
from tl_transcoders.evaluation.feature_statistics import feature_statistics as feature_statistics
from tl_transcoders.evaluation.report import Effect as Effect
from tl_transcoders.evaluation.report import LayerReport as LayerReport
from tl_transcoders.evaluation.report import Report as Report
