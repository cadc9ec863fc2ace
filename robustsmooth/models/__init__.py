"""Networks, normalisation inside the network, noise layers, checkpoint import."""

from robustsmooth.models.build import NORMALIZATIONS, build_classifier
from robustsmooth.models.checkpoint import load_checkpoint, load_denoiser
from robustsmooth.models.classifier import Classifier, Normalize, SmallCNN
from robustsmooth.models.denoiser import DnCNN, MemNet
from robustsmooth.models.diffusion import OneStepDiffusion
from robustsmooth.models.ensemble import Ensemble
from robustsmooth.models.exporting import save_onnx, save_safetensors
from robustsmooth.models.libraries import resnet32x32, timm_network, torchvision_network
from robustsmooth.models.noise_layers import NoiseLayers, is_random, silenced
from robustsmooth.models.parametric_noise import ParametricNoise
from robustsmooth.models.resnet import CifarResNet
from robustsmooth.models.sanity import sanity_check
from robustsmooth.models.state import Checkpoint, read_checkpoint
from robustsmooth.models.storage import CheckpointFiles, load_file
from robustsmooth.models.unet import UNet
from robustsmooth.models.wide_resnet import WideResNet

__all__ = [
    "NORMALIZATIONS",
    "Checkpoint",
    "CheckpointFiles",
    "CifarResNet",
    "Classifier",
    "DnCNN",
    "Ensemble",
    "MemNet",
    "NoiseLayers",
    "Normalize",
    "OneStepDiffusion",
    "ParametricNoise",
    "SmallCNN",
    "UNet",
    "WideResNet",
    "build_classifier",
    "is_random",
    "load_checkpoint",
    "load_denoiser",
    "load_file",
    "read_checkpoint",
    "resnet32x32",
    "sanity_check",
    "save_onnx",
    "save_safetensors",
    "silenced",
    "timm_network",
    "torchvision_network",
]
