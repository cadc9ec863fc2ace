"""HeatSmoothing: label-free certified robustness by solving the heat equation (Algorithm 1)."""

import copy
import logging
from typing import Any, Literal, Unpack, get_args

import torch
from torch import Tensor, nn

from robustsmooth.data import Batch
from robustsmooth.losses import HeatLoss
from robustsmooth.methods.base import ClassificationModule, Optimizing, Training
from robustsmooth.smoothing.addressing import address

_log = logging.getLogger(__name__)

Student = Literal["copy", "random"]


class HeatSmoothingModule(ClassificationModule):
    """Retrain a trained network, without labels, to be its own Gaussian average.

    Training is divided into equally long time steps. In each, the student learns from the teacher of
    that step, which is frozen, in eval mode, and sees clean images; at its end the student becomes the
    next teacher (eq. 15). The optimiser and its schedule start again with every time step. The teacher is
    part of the module's state, so that a killed run resumes exactly and needs no other file.

    The loss uses no labels. (The metrics of validation do.)

    Args:
        network: The trained network to start from; see `ClassificationModule`.
        optimizer: See `ClassificationModule`.
        sigma: Standard deviation of the Gaussian average, in pixel units; with 0 the loss is the fidelity
            alone.
        loss: The objective of a time step.
        start: Where the network's weights come from; only checked to be given, since smoothing an untrained
            network is pointless.
        time_steps: The paper's n_T; the penalty is multiplied by h = 1 / n_T. It divides
            ``trainer.max_epochs``, which counts the epochs of all time steps.
        student: What a time step starts with: a ``copy`` of the teacher, fine-tuned (paper, ImageNet);
            or a ``random`` network (published CIFAR-10 code).
        noise_probability: Probability that the student's input gets Gaussian noise of level sigma: 0 (eq. 15)
            or 0.5 (eq. 10, "half of the training images").
        decay_biases: Whether the optimiser's weight decay applies to the biases; in the ImageNet code it does
            not.
        **training: See `ClassificationModule`.

    Raises:
        ValueError: If an argument is out of its range, or `start` is missing.
    """

    time_step: Tensor

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizing,
        *,
        sigma: float,
        loss: HeatLoss,
        start: str | None,
        time_steps: int = 1,
        student: Student = "copy",
        noise_probability: float = 0.0,
        decay_biases: bool = True,
        **training: Unpack[Training],
    ) -> None:
        super().__init__(network, optimizer, sigma=sigma, **training)
        if start is None:
            raise ValueError(
                "HeatSmoothing starts from a trained network: add model.checkpoint=<run folder>, such as "
                "the one that method=natural wrote"
            )
        if time_steps < 1:
            raise ValueError(f"`method.time_steps` must be at least 1, got {time_steps}")
        if student not in get_args(Student):
            raise ValueError(f"`method.student` must be one of copy, random, got {student!r}")
        if not 0 <= noise_probability <= 1:
            raise ValueError(f"`method.noise_probability` must be in [0, 1], got {noise_probability}")
        self.loss = loss
        self.time_steps = time_steps
        self.student = student
        self.noise_probability = noise_probability
        self.decay_biases = decay_biases
        self.teacher = copy.deepcopy(self.network).requires_grad_(False)
        # -1: none has started. Part of the state, so that a resumed run does not start it again. A time step
        # starts with the first batch of an epoch, not in the epoch's hook: Lightning skips that hook when it
        # resumes from a checkpoint of an epoch's last batch.
        self.register_buffer("time_step", torch.tensor(-1))
        self._begun = -1
        self._epochs = time_steps

    # ------------------------------------------------------------------ the loss

    @property
    def needs_labels(self) -> bool:
        """The loss uses no labels."""
        return False

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Distil the batch's images; its labels are not used."""
        return self._distil(batch.images)

    def _distil(self, images: Tensor) -> dict[str, Tensor]:
        self.teacher.eval()  # train() of this module has put the teacher into train mode too
        with torch.no_grad():
            targets = self.teacher(images)
        return self.loss(
            self.network,
            self._student_input(images),
            targets,
            sigma=self.sigma,
            time_step=1 / self.time_steps,
            probes=self.randomness("probes").normal,
        )

    def _student_input(self, images: Tensor) -> Tensor:
        if self.noise_probability == 0 or self.sigma == 0:
            return images
        chosen = self.randomness("noisy").uniform(images[:, :1, :1, :1])[0] < self.noise_probability
        return images + chosen * self.noises(images)[0]

    # ------------------------------------------------------------------ time steps

    def on_fit_start(self) -> None:
        """Check that the time steps are equally long."""
        super().on_fit_start()
        self._epochs = self.trainer.max_epochs or 0
        if self._epochs < 1 or self._epochs % self.time_steps:
            raise ValueError(
                f"`trainer.max_epochs` must be a multiple of method.time_steps={self.time_steps}, "
                f"got {self._epochs}: it counts the epochs of all time steps together"
            )

    def on_train_start(self) -> None:
        """Continue with the time step of the checkpoint, if this run is resumed from one."""
        self._begun = int(self.time_step)
        if self._begun < 0 and self.student == "random" and self.trainer.is_global_zero:
            _log.warning(
                "the given network is the first teacher only: the student starts from random weights in each "
                "of the %d time steps of %d epochs; method.student=copy fine-tunes the given network instead",
                self.time_steps,
                self._epochs // self.time_steps,
            )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Start the next time step at its first epoch."""
        super().on_train_batch_start(batch, batch_idx)
        step = self.current_epoch * self.time_steps // self._epochs
        if step != self._begun:
            self._begin(step)

    def _begin(self, step: int) -> None:
        if step > 0:
            self.teacher.load_state_dict(self.network.state_dict())
            self.trainer.strategy.setup_optimizers(self.trainer)  # a new optimiser, a new schedule
        if self.student == "random":
            reinitialize(self.network, address(self.seed, "heat/student", step))
        self._begun = step
        self.time_step.fill_(step)

    def parameter_groups(self) -> Any:
        """The student's parameters; biases without weight decay unless `decay_biases`."""
        if self.decay_biases:
            return super().parameter_groups()
        groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                groups[name.endswith("bias")].append(parameter)
        return [{"params": groups[0]}, {"params": groups[1], "weight_decay": 0.0}]


def reinitialize(network: nn.Module, seed: int) -> None:
    """Initialise a network's parameters again, with its layers' own ``reset_parameters``.

    Args:
        network: Changed in place.
        seed: The same seed gives the same parameters, on every rank.

    Raises:
        ValueError: If a layer has parameters but no ``reset_parameters``.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, layer in network.named_modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()
            elif next(layer.parameters(recurse=False), None) is not None:
                raise ValueError(
                    f"`method.student=random` cannot initialise `{name}`: {type(layer).__name__} has no "
                    "reset_parameters; use method.student=copy"
                )
