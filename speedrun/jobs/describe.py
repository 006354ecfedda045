"""`python -m speedrun describe RECIPE`: the layers of a net, its parameters, operations and receptive field."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from speedrun import recipes
from speedrun.arguments import Parser, take_config
from speedrun.config import SMALLEST_SIDE, require

if TYPE_CHECKING:
    from speedrun.anatomy import Layer

CLASSES = 10


def parser() -> Parser:
    """The parser of this job."""
    result = Parser("python -m speedrun describe", "Show the layers of a net; train nothing.")
    result.add_argument("recipe", nargs="?", help="recipe; `python -m speedrun recipes` lists them (default speednet)")
    result.add_argument("--size", type=int, default=32, help="side of the images in pixels (default 32)")
    result.add_fields(("json",))
    result.add_saved()
    return result


def main(argv: list[str], start: float) -> int:
    """Print a row a layer, and the sums; returns the exit code. Raises UsageError."""
    given = vars(parser().parse_args(argv))
    size = given.pop("size")
    if given["recipe"] is None:
        del given["recipe"]
    require(size >= SMALLEST_SIDE, f"--size must be {SMALLEST_SIDE} pixels or more, not {size}")
    config = take_config(given)
    from speedrun import anatomy, models, planner

    # What the recipe leaves to the planner is shown as without a deadline.
    model = planner.choose(config, planner.Situation("cpu", 1.0), None).apply(config).model
    net = models.sketch(model, CLASSES)
    layers = anatomy.layers(net, size)
    found = {
        "recipe": config.recipe,
        "image_size": size,
        "parameters": models.parameters(net),
        "parameter_limit": model.parameter_limit,
        "forward_flops": models.forward_flops(net, size),
        "receptive_field": anatomy.receptive_field(net, size),
    }
    if config.json:
        print(json.dumps({**found, "layers": [asdict(layer) for layer in layers]}))
    else:
        _print(found, layers)
    return 0


def _print(found: dict[str, Any], layers: "list[Layer]") -> None:
    from rich.console import Console
    from rich.table import Table

    print(f"{found['recipe']}: {recipes.summary(found['recipe'])}")
    table = Table(box=None)
    table.add_column("layer")
    table.add_column("kind")
    for heading in ("output", "parameters", "MFLOP", "sees"):
        table.add_column(heading, justify="right")
    for layer in layers:
        table.add_row(
            layer.name,
            layer.kind,
            " x ".join(map(str, layer.shape)),
            f"{layer.parameters:,}",
            f"{layer.flops / 1e6:,.2f}" if layer.flops else "",
            "" if layer.field is None else str(layer.field),
        )
    Console().print(table)
    limit = found["parameter_limit"]
    below = "" if limit is None else f" (limit {limit:,})"
    print(f"parameters       {found['parameters']:,}{below}")
    operations, size = found["forward_flops"] / 1e9, found["image_size"]
    print(f"operations       {operations:.4g} GFLOP forward, an image of {size} pixels")
    print(f"receptive field  {found['receptive_field']} pixels")
