"""Training methods: one LightningModule each."""

from robustsmooth.methods.adversarial import AdversarialModule
from robustsmooth.methods.base import ClassificationModule, Optimizing, Training
from robustsmooth.methods.callbacks import NamedCheckpoint
from robustsmooth.methods.cat_rs import CATRSModule
from robustsmooth.methods.compiling import CompiledTraining
from robustsmooth.methods.cpni import CPNIModule
from robustsmooth.methods.denoiser import DenoiserModule
from robustsmooth.methods.gaussian import GaussianModule
from robustsmooth.methods.heat import HeatSmoothingModule
from robustsmooth.methods.natural import NaturalModule
from robustsmooth.methods.noisy import copies_loss, noisy_logits, require_copies, require_noise
from robustsmooth.methods.smoothadv import SmoothAdvModule
from robustsmooth.methods.smoothmix import SmoothMixModule
from robustsmooth.methods.sodm import SODMModule
from robustsmooth.methods.sun2025 import Sun2025Module
from robustsmooth.methods.training_progress import TrainingProgress

__all__ = [
    "AdversarialModule",
    "CATRSModule",
    "CPNIModule",
    "ClassificationModule",
    "CompiledTraining",
    "DenoiserModule",
    "GaussianModule",
    "HeatSmoothingModule",
    "NamedCheckpoint",
    "NaturalModule",
    "Optimizing",
    "SODMModule",
    "SmoothAdvModule",
    "SmoothMixModule",
    "Sun2025Module",
    "Training",
    "TrainingProgress",
    "copies_loss",
    "noisy_logits",
    "require_copies",
    "require_noise",
]
