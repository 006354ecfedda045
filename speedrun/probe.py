"""How fast this machine trains: the operations a second of a few steps of a small net of fixed size."""

import statistics
import time
from collections.abc import Callable

import torch

from speedrun import models
from speedrun.config import ModelConfig, OptimConfig
from speedrun.device import synchronize
from speedrun.methods.plain import PlainStep
from speedrun.stream import Batch

# (widths, pixels, batch) of the probe: large enough to fill the device, small enough to take a tenth of a second.
PROBES = {"cpu": ((32, 128, 128), 24, 128), "cuda": ((64, 256, 256), 32, 2048)}
STEPS = 4


def settle_threads(dtype: torch.dtype) -> float:
    """Take half the CPU threads where that is faster than all of them; returns the operations a second of the choice.

    Beside another busy process every parallel region waits for the thread that was pushed off its core: two threads on
    two cores then were 50 times slower than alone, one thread was not slowed at all. So it takes a clear advantage.
    """
    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    speed = training_flops_per_second(cpu, dtype)
    if threads == 1:
        return speed
    torch.set_num_threads(threads // 2)
    halved = training_flops_per_second(cpu, dtype, steps=2)
    if halved > 1.5 * speed:
        return halved
    torch.set_num_threads(threads)
    return speed


def training_step(device: torch.device, dtype: torch.dtype) -> tuple[float, Callable[[], object]]:
    """The probe: a training step in eager mode; its operations, which count as three forward passes, and a call."""
    widths, size, batch_size = PROBES.get(device.type, PROBES["cpu"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = models.build(ModelConfig(widths=widths, depth=2), classes=10)
        net = net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = torch.randn(batch_size, 3, size, size).to(device, dtype, memory_format=torch.channels_last)
        labels = torch.randint(10, (batch_size,)).to(device)
    flops = 3 * models.forward_flops(net, size) * batch_size
    step = PlainStep(net, net, OptimConfig(), batch_size, dtype)
    batch = Batch(images, labels, labels)
    return flops, lambda: step(batch, 0.0)


def training_flops_per_second(device: torch.device, dtype: torch.dtype, steps: int = STEPS) -> float:
    """Operations a second of the probe: median of `steps` after one to warm up."""
    flops, step = training_step(device, dtype)
    seconds = []
    for _ in range(1 + steps):
        start = time.perf_counter()
        step()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return flops / statistics.median(seconds[1:])
