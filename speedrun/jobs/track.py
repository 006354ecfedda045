"""`python -m speedrun track`: send runs and jobs to Weights & Biases, from what they left."""

from pathlib import Path

from speedrun import tracking
from speedrun.arguments import Parser


def main(argv: list[str], start: float) -> int:
    """Send; returns the exit code. Raises SpeedrunError."""
    parser = Parser("python -m speedrun track", "Send runs and jobs to Weights & Biases.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="what --out was")
    parser.add_argument("--project", default="speedrun", help="project to send to (default speedrun)")
    parser.add_argument("--offline", action="store_true", help="keep it on this machine, for `wandb sync`")
    options = parser.parse_args(argv)
    for folder in options.folders:
        for name in tracking.send(folder, project=options.project, offline=options.offline):
            print(name)
    return 0
