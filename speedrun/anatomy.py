"""What a net is made of: its layers with shapes, parameters and operations, and how far each of them sees."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from speedrun import models


@dataclass(frozen=True)
class Layer:
    """A layer as it runs. shape: of its output for one image. flops: two a multiply-add.

    field: side in pixels of the square of the input that one element of the output depends on, as far as the padding
    lets it; None once the map is pooled.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    flops: int
    field: int | None


def layers(net: nn.Module, size: int) -> list[Layer]:
    """The layers of a net in the order in which they run on an image of `size` pixels; runs it once, on one image."""
    found: list[Layer] = []
    fields = _Fields()

    def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            count = sum(parameter.numel() for parameter in layer.parameters())
            kind, shape = type(layer).__name__, tuple(output.shape[1:])
            found.append(Layer(name, kind, shape, count, models.layer_flops(layer, output), fields.of(output)))

        return hook

    leaves = [(name, layer) for name, layer in net.named_modules() if not list(layer.children())]
    shown = [(name, layer) for name, layer in leaves if not isinstance(layer, nn.Identity | nn.Dropout)]
    hooks = [layer.register_forward_hook(note(name)) for name, layer in shown]
    try:
        with fields:
            models.run_once(net, size)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def receptive_field(net: nn.Module, size: int = 32) -> int:
    """Side in pixels of what an element of the last map, before it is pooled as a whole, sees of the input."""
    with _Fields() as fields:
        models.run_once(net, size)
    return fields.largest


class _Fields(TorchFunctionMode):
    """Follows each tensor of a forward pass: how many pixels of the input an element sees, how far apart two are.

    A window of k elements that lie `jump` pixels apart adds (k - 1) * jump; where tensors meet, the farthest counts.
    Source of the arithmetic: Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks"
    (Distill, 2019).
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, tuple[Tensor, int, int]] = {}  # the tensor too, lest another one take its id

    @property
    def largest(self) -> int:
        """The side in pixels of what an element of any map sees at most."""
        return max(field for _, field, _ in self._seen.values())

    def of(self, tensor: Tensor) -> int | None:
        """The side in pixels of what an element of this map sees; None where it is no map."""
        return self._seen[id(tensor)][1] if tensor.ndim == 4 and id(tensor) in self._seen else None

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        if not isinstance(output, Tensor):
            return output
        inputs = [argument for argument in (*args, *kwargs.values()) if isinstance(argument, Tensor)]
        known = [self._seen[id(tensor)] for tensor in inputs if id(tensor) in self._seen]
        field, jump = max((entry[1] for entry in known), default=1), max((entry[2] for entry in known), default=1)
        kernel, stride = _window(getattr(function, "__name__", ""), args, kwargs)
        self._seen[id(output)] = (output, field + (kernel - 1) * jump, jump * stride)
        return output


def _window(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, int]:
    """Kernel and stride in pixels of a torch function that looks at a window of them; 1 and 1 of any other."""
    if name not in ("conv2d", "max_pool2d", "avg_pool2d"):
        return 1, 1
    convolves = name == "conv2d"
    place = 3 if convolves else 2
    kernel = args[1].shape[-1] if convolves else args[1]
    stride = (args[place] if len(args) > place else kwargs.get("stride")) or (1 if convolves else kernel)
    return kernel, stride if isinstance(stride, int) else stride[0]
