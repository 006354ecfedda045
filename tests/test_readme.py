"""The README's commands parse, its loader example runs, its table is the records'; .ci/run runs its install command."""

import importlib
import inspect
import re
import shlex
import sys
from pathlib import Path

import pytest
from machines import a_step, gpu
from torch.distributed.run import get_args_parser

from benchmarks import curve, curve_picture, readme
from benchmarks.results import recorded
from speedrun import cli, trials

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line for kind, text in BLOCKS if not kind for line in text.splitlines() if line.startswith("python -m speedrun")
]
LAUNCHED = [line for kind, text in BLOCKS if not kind for line in text.splitlines() if line.startswith("torchrun")]
SNIPPETS = [text for kind, text in BLOCKS if kind == "python"]


def test_B2_there_are_commands_to_check():
    assert len(COMMANDS) >= 8
    assert len(LAUNCHED) >= 3
    assert len(SNIPPETS) == 2


@pytest.mark.parametrize("line", COMMANDS)
def test_B2_a_command_of_the_readme_parses(line, monkeypatch, tmp_path):
    words = shlex.split(line, comments=True)[3:]
    if words and words[0] in cli.COMMANDS:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(trials, "run", lambda job, start: 0)
        # Words that do not parse are exit 2; there is no earlier run here.
        codes = {"ensemble": 0, "search": 0, "ablate": 0, "predict": 1, "export": 1, "plot": 1, "track": 1}
        assert words[0] not in codes or cli.main(words, 0.0) == codes[words[0]]
        return
    if "--config" in words:
        (tmp_path / "config.json").write_text("{}")
        words[words.index("--config") + 1] = str(tmp_path / "config.json")
    cli.parse(words)


@pytest.mark.parametrize("line", LAUNCHED)
def test_B2_a_command_under_torchrun_parses(line, monkeypatch, tmp_path):
    launcher, _, words = line.partition(" -m speedrun ")
    assert get_args_parser().parse_args([*shlex.split(launcher)[1:], "speedrun"]).nproc_per_node == "8"
    test_B2_a_command_of_the_readme_parses(f"python -m speedrun {words}", monkeypatch, tmp_path)


def test_B2_the_loader_example_runs():
    scope: dict = {}
    exec(SNIPPETS[1], scope)
    stream, batch = scope["stream"], scope["batch"]
    assert stream.batches == len(stream) == 6
    assert batch.images.shape == (100, 3, 24, 24)
    assert (batch.labels == scope["test_labels"][batch.index]).all()
    assert 0 <= scope["right"] <= 1100


def test_B2_the_training_example_uses_public_names():
    import speedrun

    names = set(re.findall(r"speedrun\.(\w+)", SNIPPETS[0]))
    assert {"train", "Config", "load"} <= names
    for name in names:
        assert getattr(speedrun, name)


def test_the_readme_shows_what_is_recorded():
    assert readme.written(README) == README


def test_the_readmes_picture_shows_what_is_recorded():
    assert "](benchmarks/curve.svg)" in README
    assert curve_picture.shows(curve_picture.PATH, recorded())


def test_the_picture_of_the_curve_has_every_device_and_knows_when_it_is_old(tmp_path):
    runs = [run for run in recorded() if curve.counts(run) and curve.target_of(run) is None]
    other = [{**run, "device": {**run["device"], "name": "Another"}, "accuracy": 0.5} for run in runs]
    path = tmp_path / "curve.svg"
    curve_picture.draw(runs + other, path)
    drawn = path.read_text(encoding="utf-8")
    assert "Another, 2 cores" in drawn
    assert curve_picture.shows(path, runs + other)
    assert not curve_picture.shows(path, runs)
    budgets, targets = curve_picture.points(other)
    assert {mean for measured in budgets.values() for _, mean, _, _ in measured} == {50.0}
    assert targets == {}


COMMANDS_OF_BENCHMARKS = [
    (module, flag)
    for name in ("README.md", "CONTRIBUTING.md")
    for module, words in re.findall(r"python -m (benchmarks\.\w+)([^`#\n]*)", (ROOT / name).read_text(encoding="utf-8"))
    for flag in re.findall(r"--[\w-]+", words)
]


def test_computers_that_a_table_takes_together_are_told():
    lines = [a_step({**gpu("A"), "cores": cores}, (0.01,)) for cores in (8, 64)]
    assert readme.pooled([*lines, a_step(gpu("B"), (0.01,))]) == ["A: records of several computers: 64 cores; 8 cores"]


@pytest.mark.parametrize(("module", "flag"), COMMANDS_OF_BENCHMARKS)
def test_a_benchmark_has_the_flags_that_documents_give_it(module: str, flag: str, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    main = importlib.import_module(module).main
    with pytest.raises(SystemExit):
        main(*[["--help"]] * len(inspect.signature(main).parameters))
    with pytest.raises(SystemExit):  # what it does not know it passes on to the main job, if it says so there
        cli.parse(["--help"])
    assert re.search(rf"{re.escape(flag)}\b", capsys.readouterr().out)


def test_every_python_module_the_readme_runs_exists():
    for module in re.findall(r"python -m ([\w.]+)", README):
        parts = module.split(".")
        place = ROOT.joinpath(*parts)
        assert module == "pytest" or place.is_dir() or place.with_suffix(".py").exists(), module
