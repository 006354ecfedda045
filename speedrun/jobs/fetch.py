"""`python -m speedrun fetch`: download a dataset into the cache and check it."""

from pathlib import Path

from speedrun import data, fetch
from speedrun.arguments import Parser


def main(argv: list[str], start: float) -> int:
    """Fetch, with a progress bar; returns the exit code. Raises UsageError and FetchError."""
    parser = Parser("python -m speedrun fetch", "Download a dataset into the cache and check it.")
    parser.add_argument("--dataset", default="cifar10", help="cifar10 or cifar100")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder to put it in (default: the user's cache)")
    options = parser.parse_args(argv)
    with fetch.progress_bar() as progress:
        result = fetch.fetch(options.dataset, options.data_dir or data.default_cache_dir(), progress=progress)
    print(f"{result.path}: {result.bytes:,} bytes fetched in {result.seconds:.1f} s, MD5 as published")
    return 0
