"""`python -m speedrun plot`: draw the pictures of runs and jobs from what they left."""

from pathlib import Path

from speedrun import plots
from speedrun.arguments import Parser


def main(argv: list[str], start: float) -> int:
    """Draw, one picture for each folder; returns the exit code. Raises SpeedrunError."""
    parser = Parser("python -m speedrun plot", "Draw the picture of a run, an ensemble, a search or an ablation.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="what --out was")
    for folder in parser.parse_args(argv).folders:
        print(plots.draw(folder))
    return 0
