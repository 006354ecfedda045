"""`python -m speedrun recipes`: list the recipes."""

from speedrun import recipes
from speedrun.arguments import Parser


def main(argv: list[str], start: float) -> int:
    """Print each recipe's name and its line; returns the exit code."""
    Parser("python -m speedrun recipes", "List the recipes.").parse_args(argv)
    width = max(map(len, recipes.names()))
    for name in recipes.names():
        print(f"{name:{width}}  {recipes.summary(name)}")
    return 0
