"""Compiling within limits: what cannot be compiled, or not in time, is run as it is."""

import os
import signal
import time
import weakref
from pathlib import Path

import pytest
import torch
from processes import environment, one_line, run
from torch import Tensor, nn

from speedrun.compiler import Forward, compile_net, compiled_before, remember, use_cache

INPUT = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def imitate(monkeypatch: pytest.MonkeyPatch, compiled: Forward) -> list[dict[str, object]]:
    """Put `compiled` in the place of what torch.compile makes; returns the arguments of the calls."""
    calls: list[dict[str, object]] = []

    def compile(net: nn.Module, **options: object) -> Forward:
        calls.append(options)
        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(torch._dynamo, "reset", lambda: None)
    return calls


def warm_up(forward: Forward) -> None:
    forward(INPUT)


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (RuntimeError("InvalidCxxCompiler: no C++\nlong\ntrace"), "(RuntimeError: InvalidCxxCompiler: no C++)"),
        (FileNotFoundError(), "(FileNotFoundError: )"),
        (AssertionError("libcuda.so cannot be found"), "(AssertionError: libcuda.so cannot be found)"),
    ],
)
def test_G6_what_cannot_be_compiled_runs_eagerly(
    error: Exception, problem: str, net: nn.Module, monkeypatch: pytest.MonkeyPatch
):
    def broken(_: Tensor) -> Tensor:
        raise error

    imitate(monkeypatch, broken)
    forward, warm, said = compile_net(net, "default", warm_up, limit_seconds=10)
    assert forward is net
    assert warm is None
    assert said == f"compilation failed {problem}: going on in eager mode"


def test_what_compiles_is_used(net: nn.Module, monkeypatch: pytest.MonkeyPatch):
    def compiled(x: Tensor) -> Tensor:
        return net(x)

    calls = imitate(monkeypatch, compiled)
    warmed: list[Forward] = []
    assert compile_net(net, "default", warmed.append, limit_seconds=10) == (compiled, True, "")
    assert warmed == [compiled]
    compile_net(net, "max-autotune", warmed.append, limit_seconds=10)
    assert [call["mode"] for call in calls] == [None, "max-autotune-no-cudagraphs"]
    assert [call["dynamic"] for call in calls] == [False, False]


def test_the_cache_was_cold_if_something_was_missing_in_it(net: nn.Module, monkeypatch: pytest.MonkeyPatch):
    from torch._dynamo.utils import counters

    def compiled(x: Tensor) -> Tensor:
        counters["inductor"]["fxgraph_cache_miss"] += 1
        return net(x)

    imitate(monkeypatch, compiled)
    assert compile_net(net, "default", warm_up, limit_seconds=10)[1] is False


def test_W4_what_takes_too_long_to_compile_runs_eagerly(net: nn.Module, monkeypatch: pytest.MonkeyPatch):
    def slow(_: Tensor) -> Tensor:
        time.sleep(30)
        raise AssertionError

    imitate(monkeypatch, slow)
    began = time.monotonic()
    forward, warm, said = compile_net(net, "default", warm_up, limit_seconds=0.3)
    assert time.monotonic() - began < 5
    assert (forward, warm) == (net, None)
    assert said == "compilation did not end within 0 s: going on in eager mode"


def test_W4_a_limit_that_a_callback_has_swallowed_is_told_again(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    end = time.monotonic() + 20

    def wait(_: object) -> None:
        while time.monotonic() < end:
            pass

    def forward(x: Tensor) -> Tensor:
        thing: set[int] = set()
        reference = weakref.ref(thing, wait)
        del thing  # the callback waits here, and what is raised in it goes no further
        assert reference() is None
        wait(None)
        raise AssertionError("nobody has ended it")

    imitate(monkeypatch, forward)
    found, _, problem = compile_net(net, "default", warm_up, 0.1)
    assert found is net
    assert problem.startswith("compilation did not end within")
    assert time.monotonic() < end
    assert capsys.readouterr().err == ""


def test_W4_no_time_at_all_is_no_error(net: nn.Module, monkeypatch: pytest.MonkeyPatch):
    def slow(_: Tensor) -> Tensor:
        time.sleep(30)
        raise AssertionError

    imitate(monkeypatch, slow)
    assert compile_net(net, "default", warm_up, limit_seconds=-3.0)[0] is net


@pytest.mark.parametrize("seconds", [0.05, 10])
def test_S4_the_alarm_and_its_handler_are_put_back(seconds: float, net: nn.Module, monkeypatch: pytest.MonkeyPatch):
    def own(*_: object) -> None:
        pytest.fail("an alarm was left behind")

    def compiled(x: Tensor) -> Tensor:
        time.sleep(0.2)
        return net(x)

    imitate(monkeypatch, compiled)
    before = signal.signal(signal.SIGALRM, own)
    try:
        forward, _, said = compile_net(net, "default", warm_up, limit_seconds=seconds)
        assert signal.getsignal(signal.SIGALRM) is own
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        assert (forward is net) == bool(said) == (seconds < 0.2)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_signal_that_asks_the_run_to_end_is_not_swallowed(net: nn.Module, monkeypatch: pytest.MonkeyPatch):
    def interrupted(_: Tensor) -> Tensor:
        raise KeyboardInterrupt

    imitate(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        compile_net(net, "default", warm_up, limit_seconds=10)


def test_the_cache_lies_where_it_is_told_to_unless_the_environment_knows_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TRITON_CACHE_DIR", "/elsewhere")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    use_cache(tmp_path)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "inductor")
    assert os.environ["TRITON_CACHE_DIR"] == "/elsewhere"


REAL = """
import sys, torch
from speedrun import compiler, models
from speedrun.config import ModelConfig
torch.manual_seed(0)
net = models.build(ModelConfig(widths=(8, 8, 8), depth=2), classes=3).eval()
x = torch.randn(4, 3, 12, 12)
with torch.no_grad():
    forward, warm, problem = compiler.compile_net(net, "default", lambda f: f(x), 300)
    same = torch.allclose(forward(x), net(x), atol=1e-4)
print(forward is net, warm, same, problem[:20], sep="|")
"""


@pytest.mark.slow
def test_torchs_compiler_itself_and_its_cache(tmp_path: Path):
    env = environment(TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    cold, warm = (one_line(run(["-c", REAL], env=env).stdout) for _ in range(2))
    if cold.startswith("True|None"):
        pytest.skip("there is no C++ compiler here")
    assert cold == "False|False|True|"
    assert warm == "False|True|True|"  # the second process finds the first one's work


def test_what_was_compiled_is_remembered_in_the_cache_for_this_torch_and_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert compiled_before("Abacus") == frozenset()
    for name in ("default a", "default b", "default a"):
        remember("Abacus", name)
    assert compiled_before("Abacus") == {"default a", "default b"}
    assert len((tmp_path / "compiled.txt").read_text().splitlines()) == 2
    assert compiled_before("Slide rule") == frozenset()
    monkeypatch.setattr(torch, "__version__", "0.1")
    assert compiled_before("Abacus") == frozenset()


def test_a_cache_that_cannot_be_written_remembers_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file"))
    remember("Abacus", "default a")
    assert compiled_before("Abacus") == frozenset()
