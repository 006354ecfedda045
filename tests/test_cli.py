"""The command line from outside: its flags, its one line for each mistake, its exit codes."""

import json
import os
from pathlib import Path

import pytest
from processes import TINY_NET, Ended, environment, one_line, run, speedrun

from speedrun import cli, files, recipes
from speedrun.config import Config
from speedrun.errors import UsageError

FLAGS = (
    "--help --seconds --target --steps --epochs --recipe --seed --runs --device --dtype --compile --tta --data-dir "
    "--dataset --out --holdout --quiet --json --dry-run --set --config --resume"
)


def test_the_flags_are_these_and_no_others():
    long = [text for action in cli.parser()._actions for text in action.option_strings if text.startswith("--")]
    assert long == FLAGS.split()
    assert cli.parser()._positionals._group_actions == []


def test_the_commands_are_these_and_no_others():
    jobs = "plan fetch recipes describe predict ensemble search doctor ablate plot export track"
    assert list(cli.COMMANDS) == jobs.split()


def test_without_arguments_it_is_the_default_recipe():
    assert cli.parse([]) == recipes.get("speednet") == Config()


def test_flags_and_set_change_the_recipe():
    config = cli.parse(["--seconds", "60", "--seed=7", "--holdout", "--set", "optim.lr=0.1", "--set", "model.depth=3"])
    assert (config.seconds, config.seed, config.holdout) == (60.0, 7, True)
    assert (config.optim.lr, config.model.depth) == (0.1, 3)


def test_a_value_may_hold_an_equals_sign():
    assert cli.parse(["--set=dataset=a=b.npz"]).dataset == "a=b.npz"


def test_flags_change_a_saved_config(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"seed": 5, "seconds": 60, "optim": {"lr": 0.125}}))
    config = cli.parse([f"--config={path}", "--seed=6", "--set=optim.momentum=0.5"])
    assert (config.seed, config.seconds, config.optim.lr, config.optim.momentum) == (6, 60.0, 0.125, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--secnds=3"], "unknown argument --secnds=3; did you mean --seconds?"),
        (["--zzz"], "unknown argument --zzz"),
        (["recipe"], "unknown argument recipe; did you mean recipes?"),
        (["--sec", "3"], "unknown argument --sec; did you mean --set?"),  # no abbreviations: they break when flags come
        (["--seconds"], "argument --seconds: expected one argument"),
        (["--set=x"], "--set takes FIELD=VALUE, not 'x'"),
        (["--set=optim.lrr=1"], "unknown field optim.lrr; did you mean optim.lr?"),
        (["--recipe=spednet"], "unknown recipe 'spednet'; did you mean speednet?"),
    ],
)
def test_what_is_not_understood_is_told_with_a_suggestion(arguments: list[str], message: str):
    with pytest.raises(UsageError) as caught:
        cli.parse(arguments)
    assert str(caught.value) == message


# Each case of bad input: arguments ({tmp} is an empty folder, {data} the tiny set), exit code, part of the one line.
BAD_INPUT = {
    "unknown-flag": (["--frobnicate"], 2, "unknown argument --frobnicate"),
    "unknown-field": (["--set=nope=1"], 2, "unknown field nope"),
    "unknown-recipe": (["--recipe=nope"], 2, "unknown recipe 'nope'"),
    "unknown-dataset": (["--dataset=nope"], 2, "unknown dataset 'nope'"),
    "unknown-device": (["--dataset={data}", "--device=nope"], 2, "unknown device 'nope'"),
    "device-of-no-use": (["--dataset={data}", "--device=meta"], 2, "unknown device 'meta'"),
    "value-does-not-parse": (["--seconds=soon"], 2, "seconds takes a number, not 'soon'"),
    "seed-out-of-range": (["--seed=-1"], 2, "seed must be in 0..4294967295"),
    "no-such-config": (["--config={tmp}/c.json"], 2, "{tmp}/c.json: No such file or directory"),
    "no-seconds-at-all": (["--dataset={data}", "--seconds=0"], 2, "0 s are too few here: --seconds "),
    "too-few-seconds": (["--dataset={data}", "--seconds=1"], 2, "1 s are too few here: --seconds "),
    "out-cannot-be-written": (["--dataset={data}", "--out={tmp}/file/out"], 1, "{tmp}/file/out cannot be written: "),
    "out-is-a-file": (["--dataset={data}", "--out={tmp}/file"], 1, "{tmp}/file cannot be written: "),
    "data-missing": (["--dataset={tmp}/none.npz"], 1, "{tmp}/none.npz"),
    "data-damaged": (["--dataset={tmp}/damaged.npz"], 1, "{tmp}/damaged.npz"),
    "data-truncated": (["--dataset={tmp}/truncated.npz"], 1, "{tmp}/truncated.npz"),
    "data-of-the-wrong-shape": (["--dataset={tmp}/gray.npz"], 1, "{tmp}/gray.npz: images: expected uint8 (N, H, W, 3)"),
    "recipes-take-nothing": (["recipes", "--seconds=3"], 2, "unknown argument --seconds=3"),
    "no-steps": (["--dataset={data}", "--steps=0"], 2, "steps must be at least 1"),
    "resolution-above-the-images": (["--dataset={data}", "--set=resolutions=24"], 2, "more than the images' 16 pixels"),
}


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """A folder with data sets that are damaged, and with a file that is in the way."""
    import numpy as np

    folder = tmp_path_factory.mktemp("faults")
    (folder / "file").write_text("in the way")
    (folder / "damaged.npz").write_bytes(b"PK\x03\x04 not really")
    whole = tiny_data.read_bytes()
    (folder / "truncated.npz").write_bytes(whole[: len(whole) // 2])
    np.savez(folder / "gray.npz", images=np.zeros((9, 16, 16), np.uint8), labels=np.zeros(9, np.int64))
    return folder


@pytest.mark.parametrize(("arguments", "code", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_W1_F3_bad_input_gets_one_line_and_its_exit_code(
    arguments: list[str], code: int, message: str, faults: Path, tiny_data: Path, tmp_path: Path
):
    before = sorted(faults.iterdir())
    filled = [word.format(tmp=faults, data=tiny_data) for word in arguments]
    if "recipes" not in filled:
        filled.append("--quiet")
    ended = speedrun(*filled, cwd=tmp_path)
    assert ended.code == code, ended.stderr
    assert ended.stdout == ""
    line = one_line(ended.stderr)
    assert line.startswith("speedrun: ")
    assert message.format(tmp=faults) in line
    # Nothing was trained and nothing stays behind.
    assert list(tmp_path.rglob("*.*")) == []
    assert sorted(faults.iterdir()) == before


def test_G1_cuda_where_there_is_none(tiny_data: Path, tmp_path: Path):
    ended = speedrun(
        "--device=cuda", f"--dataset={tiny_data}", "--quiet", cwd=tmp_path, env=environment(CUDA_VISIBLE_DEVICES="")
    )
    assert (ended.code, ended.stdout) == (1, "")
    assert "torch finds no CUDA device here" in one_line(ended.stderr)


def test_missing_cifar10_is_one_line_when_nothing_can_be_fetched(tmp_path: Path):
    env = environment(SPEEDRUN_DATA=None, SPEEDRUN_CACHE=str(tmp_path / "cache"), https_proxy="http://127.0.0.1:9")
    ended = speedrun("--dataset=cifar10", "--quiet", cwd=tmp_path, env=env)
    assert (ended.code, ended.stdout) == (1, "")
    assert "cifar" in one_line(ended.stderr)


def test_L4_a_folder_in_use_is_refused(tiny_data: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    with files.lock(out / ".lock", wait_seconds=0, what="a test"):
        ended = speedrun(f"--dataset={tiny_data}", f"--out={out}", "--steps=2", "--quiet", *TINY_NET)
    assert ended.code == 1
    assert one_line(ended.stderr) == f"speedrun: another run is writing to {out}: choose another --out"
    assert [path.name for path in out.iterdir()] == [".lock"]


def test_L4_a_folder_that_holds_a_run_is_refused(tiny_data: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "result.json").write_text("{}")
    ended = speedrun(f"--dataset={tiny_data}", f"--out={out}", "--steps=2", "--quiet", *TINY_NET)
    assert ended.code == 1
    assert one_line(ended.stderr) == f"speedrun: {out} holds another run already: choose another --out"
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("result.json", "{}")]


@pytest.mark.clock
def test_W1_the_least_seconds_that_it_names_are_enough(tiny_data: Path, tmp_path: Path):
    ended = speedrun(f"--dataset={tiny_data}", "--seconds=1", "--quiet", *TINY_NET)
    least = int(ended.stderr.partition("--seconds ")[2].split()[0])
    assert 1 < least < 15
    for seconds in (least, least + 2):  # the machine may have been slower this time
        out = tmp_path / str(seconds)
        ended = speedrun(f"--dataset={tiny_data}", f"--seconds={seconds}", f"--out={out}", *TINY_NET)
        assert ended.seconds < seconds
        if ended.code == 0:
            break
    assert ended.code == 0, ended.stderr
    assert (out / "model.pt").exists()


@pytest.fixture(scope="module")
def help_text() -> Ended:
    # The third of three: pages of the disk and compiled modules are then where they will be for everyone.
    return [speedrun("--help") for _ in range(3)][-1]


@pytest.mark.clock
def test_help_is_quick_and_names_every_flag(help_text: Ended):
    assert help_text.code == 0
    assert help_text.seconds < 1
    assert [flag for flag in FLAGS.split() if flag not in help_text.stdout] == []
    assert all(name in help_text.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize("arguments", [["--help"], ["recipes"], ["--secnds"], ["--set=optim.lr=x"]])
def test_what_needs_no_training_imports_nothing_heavy(arguments: list[str]):
    code = f"""
import sys
from speedrun import cli
try:
    cli.main({arguments!r}, 0.0)
except SystemExit:
    pass
print(*sorted({{"torch", "numpy", "rich", "triton"}} & set(sys.modules)), file=sys.stderr)
"""
    assert run(["-c", code]).stderr.splitlines()[-1] == ""


def test_the_recipes_are_listed():
    ended = speedrun("recipes")
    assert ended.code == 0
    assert [line.split()[0] for line in ended.stdout.splitlines()] == recipes.names()
    assert all(len(line.split()) > 3 for line in ended.stdout.splitlines())


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(command: str):
    ended = speedrun(command, "--help")
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"usage: python -m speedrun {command}")


def test_a_dry_run_shows_its_plan_and_leaves_nothing(tiny_data: Path, tmp_path: Path):
    ended = speedrun("--dry-run", f"--dataset={tiny_data}", "--seconds=60", cwd=tmp_path)
    assert (ended.code, ended.stderr) == (0, "")
    labels = [line.split()[0] for line in ended.stdout.splitlines()]
    assert {"device", "dtype", "data", "speed", "plan", "why"} <= set(labels)
    assert "train" not in labels
    assert os.listdir(tmp_path) == []


def test_a_dry_run_as_json_is_one_line(tiny_data: Path, tmp_path: Path):
    ended = speedrun("--dry-run", "--json", f"--dataset={tiny_data}", *TINY_NET, cwd=tmp_path)
    assert ended.code == 0
    plan = json.loads(one_line(ended.stdout))["plan"]
    assert (plan["model.widths"], plan["batch_size"], plan["resolutions"]) == ([8, 8, 8], 50, [12, 16])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("words", [["--recipe=nope"], ["--set=recipe=nope"]])
def test_an_unknown_recipe_is_refused_wherever_it_comes_from(words: list[str]):
    with pytest.raises(UsageError, match="unknown recipe 'nope'"):
        cli.parse(words)


def test_a_saved_run_of_an_unknown_recipe_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"recipe": "nope"}')
    with pytest.raises(UsageError, match="unknown recipe 'nope'"):
        cli.parse(["--config", str(tmp_path / "config.json")])


def test_R5_the_last_runs_seed_is_checked_before_the_first_run():
    with pytest.raises(UsageError, match="the last run's seed"):
        cli.parse(["--seed=4294967295", "--runs=2"])
