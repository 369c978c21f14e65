"""Training transcoders, skip transcoders, SAEs and cross-layer transcoders from one stream of activations."""

from tl_transcoders.training.checkpoint import last_checkpoint as last_checkpoint
from tl_transcoders.training.config import TrainConfig as TrainConfig
from tl_transcoders.training.cross_layer import train_cross_layer as train_cross_layer
from tl_transcoders.training.report import StepReport as StepReport
from tl_transcoders.training.start import initial_transcoder as initial_transcoder
from tl_transcoders.training.train import train as train
from tl_transcoders.training.trainer import Trainer as Trainer
