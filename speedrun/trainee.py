"""A net on a device with all that training it takes: its stream, its step, its evaluator."""

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kernels.augment import Augmentation, augment
from speedrun import compiler, models, seeds
from speedrun.compiler import Forward
from speedrun.config import Config
from speedrun.evaluate import Evaluator
from speedrun.machine import Machine
from speedrun.methods.plain import PlainStep
from speedrun.stream import Normalization, Stream

# As in github.com/KellerJordan/cifar10-airbench; the covariance of 12 numbers needs no more.
WHITENING_IMAGES = 5000


@dataclass
class Trainee:
    """The net of a run whose plan is made. forward: what a step calls, the net itself or its compiled form."""

    config: Config
    machine: Machine
    net: nn.Module
    forward: Forward
    normalization: Normalization
    initial: dict[str, Any]

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Sides in pixels over the run, each for an equal share; the last one also at test."""
        assert self.config.resolutions is not None
        return self.config.resolutions

    @property
    def batch_size(self) -> int:
        assert self.config.batch_size is not None
        return self.config.batch_size

    def images_seen(self) -> dict[str, Any]:
        """What tells the training images from others, in plain values."""
        mean, std = self.normalization.mean, self.normalization.std
        return {"images": len(self.machine.train_images), "mean": mean.tolist(), "std": std.tolist()}

    def stream(self) -> Stream:
        """The training batches from their beginning."""
        options = self.config.augment  # its fields are named as the augmentation's
        assert options.cutout is not None
        return Stream(
            self.machine.train_images,
            self.machine.train_labels,
            batch_size=self.batch_size,
            augmentation=Augmentation(**dataclasses.asdict(options)),
            normalization=self.normalization,
            dtype=self.machine.choice.dtype,
            seed=self.config.seed,
        )

    def step(self) -> PlainStep:
        """A method with fresh optimisers."""
        config, dtype = self.config, self.machine.choice.dtype
        return PlainStep(self.net, self.forward, config.optim, self.batch_size, dtype, config.seed)

    def evaluator(self, images: Tensor, net: nn.Module | None = None) -> Evaluator:
        """Scores uint8 `images` with `net` (default: the trained one)."""
        return Evaluator(
            net or self.net,
            images,
            normalization=self.normalization,
            dtype=self.machine.choice.dtype,
            size=self.resolutions[-1],
        )

    def whiten(self) -> None:
        """Compute the first layer from the first training images, where the net has one that is made so."""
        initialize = getattr(self.net, "initialize", None)
        if initialize is None:
            return
        images = self.machine.train_images
        rows = torch.arange(min(WHITENING_IMAGES, len(images)), device=images.device)
        mean, std = self.normalization.mean, self.normalization.std
        plain = Augmentation(size=self.machine.image_size)
        initialize(augment(images, rows, plain, mean=mean, std=std, seed=0, epoch=0, dtype=torch.float32))

    def reset(self) -> None:
        """Back to the initial weights: nothing learned while compiling or calibrating stays."""
        self.net.load_state_dict(self.initial)
        for parameter in self.net.parameters():
            parameter.grad = None

    def resize(self, config: Config) -> None:
        """Take a config with another batch size. Eager from here: a compiled net would have to be compiled again."""
        self.config, self.forward = config, self.net
        for parameter in self.net.parameters():
            parameter.grad = None

    def compile(self, limit_seconds: float) -> tuple[bool | None, str]:
        """Compile every shape that training takes; eager where that fails or takes over `limit_seconds`.

        Returns whether the compile cache was warm (None: nothing was compiled) and the problem in one line, if any.
        """
        stream, sizes = self.stream(), sorted(set(self.resolutions))

        def warm_up(forward: Forward) -> None:
            self.forward = forward
            step = self.step()
            for size in sizes:
                step(stream.next(size), 0.0)

        self.forward, warm, problem = compiler.compile_net(self.net, self.config.compile, warm_up, limit_seconds)
        self.reset()
        return warm, problem


def build(config: Config, machine: Machine) -> Trainee:
    """The net of a planned config, initialised from its seed, on the machine's device."""
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are left as they were
        torch.manual_seed(seeds.derive(config.seed, "init"))
        net = models.build(config.model, machine.classes)
    net = net.to(machine.choice.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = machine.train_images
    normalization = Normalization.of(images) if config.normalise else Normalization.none(images.device)
    return Trainee(config, machine, net, net, normalization, copy.deepcopy(net.state_dict()))
