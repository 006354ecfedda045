"""`python -m speedrun export`: write a trained net as safetensors, with its config."""

from pathlib import Path

from speedrun.arguments import Parser
from speedrun.errors import SpeedrunError, UsageError


def main(argv: list[str], start: float) -> int:
    """Export; returns the exit code. Raises UsageError and SpeedrunError."""
    parser = Parser("python -m speedrun export", "Write a trained net as safetensors, with its config.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder or its model.pt")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write (default model.safetensors beside it)")
    options = parser.parse_args(argv)
    from speedrun import checkpoint, export, predictor

    path = predictor.locate(options.run)
    out: Path = options.out or path.with_suffix(export.SUFFIX)
    if out.suffix != export.SUFFIX:
        raise UsageError(f"{out}: the name must end in {export.SUFFIX}")
    try:
        export.write(checkpoint.load(path), out)
    except OSError as error:
        raise SpeedrunError(f"{out} cannot be written: {error.strerror}") from None
    print(out)
    return 0
