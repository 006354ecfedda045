"""A net on a device with all that training it takes: its stream, its step, its evaluator."""

import copy
import dataclasses
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kernels.augment import Augmentation, augment
from speedrun import compilation, compiler, memory, models, seeds
from speedrun.compiler import Forward
from speedrun.config import Config, ModelConfig, require
from speedrun.distributed import World
from speedrun.evaluate import Evaluator
from speedrun.machine import Machine
from speedrun.methods import captured
from speedrun.methods.captured import CapturedStep, CapturedStream
from speedrun.methods.plain import PlainStep
from speedrun.methods.selective import Proxy, SelectiveStep
from speedrun.selection import Stage, stages
from speedrun.shared import SharedEvaluator
from speedrun.stream import Normalization, Stream

S = TypeVar("S", bound=Stream)

# As in github.com/KellerJordan/cifar10-airbench; the covariance of 12 numbers needs no more.
WHITENING_IMAGES = 5000


@dataclass
class Trainee:
    """The net of a run whose plan is made.

    forward: what a step calls, the net itself or its compiled form. captured: the step in graphs, if there is one; its
    tensors are part of those, so every training of this trainee goes through it. world: the ranks that train this net
    together. parallel: what a step calls where those are several. proxy: the small net that picks images, if any are
    picked.
    """

    config: Config
    machine: Machine
    net: nn.Module
    forward: Forward
    normalization: Normalization
    initial: dict[str, Any]
    captured: CapturedStep | None = None
    world: World = field(default_factory=World)
    parallel: nn.Module | None = None
    proxy: nn.Module | None = field(init=False)

    def __post_init__(self) -> None:
        self.proxy = self._proxy()

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Sides in pixels over the run, each for an equal share; the last one also at test."""
        assert self.config.resolutions is not None
        return self.config.resolutions

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What steps do over the run."""
        return stages(self.resolutions, self.config.select)

    @property
    def batch_size(self) -> int:
        assert self.config.batch_size is not None
        return self.config.batch_size

    @property
    def compiled(self) -> bool:
        """Whether there is something that took its time to make and can be used again."""
        return self.forward is not self.net or self.captured is not None

    def serves(self, config: Config) -> bool:
        """Whether what is compiled is what another config needs: one that differs in the seed alone."""
        return self.compiled and dataclasses.replace(self.config, seed=config.seed) == config

    def begin(self, config: Config, initial: dict[str, Any]) -> None:
        """Train another time, by a config that this `serves` and from other weights."""
        self.config, self.initial = config, copy.deepcopy(initial)
        if self.captured is not None:
            self.captured.stream.begin(config.seed)
        self.reset()

    def images_seen(self) -> dict[str, Any]:
        """What tells the training images from others, in plain values."""
        mean, std = self.normalization.mean, self.normalization.std
        return {"images": len(self.machine.train_images), "mean": mean.tolist(), "std": std.tolist()}

    def stream(self) -> Stream:
        """The training batches from their beginning."""
        if self.captured is not None:
            self.captured.stream.batches = 0
            return self.captured.stream
        return self._stream(Stream)

    def _stream(self, kind: type[S]) -> S:
        options = self.config.augment  # its fields are named as the augmentation's
        assert options.cutout is not None
        return kind(
            self.machine.train_images,
            self.machine.train_labels,
            batch_size=self.batch_size,
            augmentation=Augmentation(size=self.machine.image_size, **dataclasses.asdict(options)),
            normalization=self.normalization,
            dtype=self.machine.choice.dtype,
            seed=self.config.seed,
            part=self.world.part(self.batch_size) if self.world.size > 1 else slice(None),
        )

    def step(self) -> PlainStep:
        """A method with fresh optimisers."""
        if self.captured is not None:
            self.captured.reset()
            return self.captured
        config, dtype = self.config, self.machine.choice.dtype
        options = (config.optim, self.batch_size, dtype, config.seed)
        if self.world.size > 1:
            from speedrun.methods import parallel

            if self.parallel is None:
                assert isinstance(self.forward, nn.Module)  # what torch.compile makes of a module is one
                self.parallel = parallel.wrap(self.forward, self.machine.choice.device)
            return parallel.ParallelStep(self.world, self.net, self.parallel, *options)
        if self.proxy is None:
            return PlainStep(self.net, self.forward, *options)
        plain = dataclasses.replace(config.optim, ema=0.0, lookahead=0, sam=0.0)
        proxy = Proxy(self.proxy, self.proxy, plain, self.batch_size, dtype)
        return SelectiveStep(proxy, config.select, self.net, self.forward, *options)

    def _proxy(self) -> nn.Module | None:
        """The net that picks images, new from its seed; None where none are picked."""
        model, select = self.config.model, self.config.select
        if not select.picks:
            return None
        widths = select.widths or tuple(max(4, width // 4) for width in model.need("widths"))
        small = dataclasses.replace(model, widths=widths, depth=model.depth and 2, dropout=0.0, parameter_limit=None)
        return _built(small, self.machine, self.config.seed, "proxy")

    def step_bytes(self) -> float:
        """What a step is thought to take, with the most images that it is given at once, at their largest size."""
        dtype, size = self.machine.choice.dtype, max(self.resolutions)
        needed = memory.step_bytes(self.net, size, self.batch_size, dtype)
        if self.proxy is not None:
            needed += memory.step_bytes(self.proxy, size, self.config.select.batches * self.batch_size, dtype)
        return needed

    def evaluator(self, images: Tensor, net: nn.Module | None = None) -> Evaluator:
        """Scores uint8 `images` with `net` (default: the trained one)."""
        make = Evaluator if self.world.size == 1 else partial(SharedEvaluator, self.world)
        return make(
            net or self.net,
            images,
            normalization=self.normalization,
            dtype=self.machine.choice.dtype,
            size=self.resolutions[-1],
        )

    def whiten(self) -> None:
        """Compute the first layer from the first training images, where a net has one that is made so."""
        if not hasattr(self.net, "initialize"):
            return
        images = self.machine.train_images
        rows = torch.arange(min(WHITENING_IMAGES, len(images)), device=images.device)
        mean, std = self.normalization.mean, self.normalization.std
        plain = Augmentation(size=self.machine.image_size)
        batch = augment(images, rows, plain, mean=mean, std=std, seed=0, epoch=0, dtype=torch.float32)
        for net in filter(None, (self.net, self.proxy)):  # of one family
            net.initialize(batch)  # type: ignore[operator]

    def reset(self) -> None:
        """Back to the initial weights: nothing learned while compiling or calibrating stays."""
        self.net.load_state_dict(self.initial)
        self.proxy = self._proxy()
        for parameter in self.net.parameters():
            parameter.grad = None

    def resize(self, config: Config) -> None:
        """Take a config with another batch size. Eager from here: a compiled net would have to be compiled again."""
        self.config, self.forward, self.captured = config, self.net, None
        for net in filter(None, (self.net, self.proxy)):
            for parameter in net.parameters():
                parameter.grad = None

    def compile(self, limit_seconds: float) -> tuple[bool | None, str]:
        """Compile every shape that training takes, and capture the step, as the config's mode has it; eager where that
        fails or takes over `limit_seconds`.

        Returns whether the compile cache was warm (None: nothing was compiled) and the problem in one line, if any.
        """
        if self.compiled:  # by an earlier run of this process
            return (None if self.forward is self.net else True), ""
        warm, problems = None, []
        if self.world.size > 1 and self.config.distributed.sync_batch_norm:
            return None, "a net with distributed.sync_batch_norm is not compiled: going on in eager mode"
        if self.config.compile != "captured":
            warm, problem = self._compile(limit_seconds)
            problems.append(problem)
        problems.append(self._capture())
        self.reset()
        return warm, "; ".join(filter(None, problems))

    def _compile(self, limit_seconds: float) -> tuple[bool | None, str]:
        stream, sizes = self.stream(), sorted(set(self.resolutions))
        config, dtype = self.config, self.machine.choice.dtype

        def warm_up(forward: Forward) -> None:
            # By itself, even on several devices: one that takes too long must not leave the others waiting.
            step = PlainStep(self.net, forward, config.optim, self.batch_size, dtype, config.seed)
            for size in sizes:
                step(stream.next(size), 0.0)

        self.forward, warm, problem = compiler.compile_net(self.net, self.config.compile, warm_up, limit_seconds)
        return warm, problem

    def _capture(self) -> str:
        """Capture the step, if this can be; the problem in one line, empty where nobody asked for what cannot be."""
        asked = self.config.compile == "captured"
        if self.world.size > 1:  # nobody has seen a graph with collectives in it give the right numbers here
            return "a step on several devices is not captured: going on in eager mode" if asked else ""
        if self.machine.choice.device.type != "cuda":
            return "a step is captured on CUDA alone: going on in eager mode" if asked else ""
        if not compilation.capturable(self.config):
            return "a step with dropout, AdamW or selection is not captured: going on in eager mode" if asked else ""
        stream = self._stream(CapturedStream)
        dtype = self.machine.choice.dtype
        self.captured, problem = captured.make(self.config, stream, self.net, self.forward, dtype)
        return problem


def build(config: Config, machine: Machine, earlier: Trainee | None = None, world: World | None = None) -> Trainee:
    """The net of a planned config, initialised from its seed, on the machine's device.

    earlier: of the same machine; it is used again, with its compiled code and its graphs, where only the seed differs.
    world: the ranks that train it together; None, this process alone.
    """
    world = world or World()
    size = config.batch_size
    require(size is None or size >= world.size, f"batch_size {size} leaves some of {world.size} ranks without an image")
    require(world.size == 1 or not config.select.picks, "select.share picks images on one device alone: leave it at 1")
    net = _built(config.model, machine, config.seed, "init")
    if earlier is not None and earlier.serves(config):
        earlier.begin(config, net.state_dict())
        return earlier
    images = machine.train_images
    normalization = Normalization.of(images) if config.normalise else Normalization.none(images.device)
    if world.size > 1 and config.distributed.sync_batch_norm:
        from speedrun.methods.parallel import synchronise_statistics

        synchronise_statistics(net)
    return Trainee(config, machine, net, net, normalization, copy.deepcopy(net.state_dict()), world=world)


def _built(model: ModelConfig, machine: Machine, seed: int, name: str) -> nn.Module:
    """A net on the machine's device, initialised from the stream of random numbers of that name."""
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers are left as they were
        torch.manual_seed(seeds.derive(seed, name))
        net = models.build(model, machine.classes)
    return net.to(machine.choice.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
