"""Measuring what a splice keeps and loses."""

from tl_transcoders.evaluation.evaluate import evaluate as evaluate
from tl_transcoders.evaluation.report import Effect as Effect
from tl_transcoders.evaluation.report import LayerReport as LayerReport
from tl_transcoders.evaluation.report import Report as Report
