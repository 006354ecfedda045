"""Checkpoints: what is in them, and that neither accidents nor malice get past their loading."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from speedrun import checkpoint
from speedrun.errors import SpeedrunError

CONFIG = {"width": 0.5, "widths": (64, 256), "augment": {"flip": "alternating", "cutout": None}, "compile": False}
EXTRA = {"mean": [0.49, 0.48, 0.45], "classes": ["cat", "dog"]}


def small_net(width: int = 8) -> nn.Sequential:
    torch.manual_seed(width)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Linear(width, 10, bias=False))


def saved(path: Path, net: nn.Module) -> Path:
    checkpoint.save(path, model=net, config=CONFIG, extra=EXTRA)
    return path


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_saved_is_loaded(tmp_path: Path):
    net = small_net().to(memory_format=torch.channels_last)
    loaded = checkpoint.load(saved(tmp_path / "model.pt", net))
    assert same(loaded.model, net.state_dict())
    assert loaded.config == CONFIG
    assert loaded.meta == EXTRA
    other = small_net(8).requires_grad_(True)
    with torch.no_grad():
        other[0].weight.zero_()
    checkpoint.load_into(other, loaded.model)
    assert same(other.state_dict(), net.state_dict())


def test_K5_plain_torch_load_opens_it(tmp_path: Path):
    contents = torch.load(saved(tmp_path / "model.pt", small_net()), weights_only=True)
    assert contents["format"] == 1
    assert contents["config"] == CONFIG
    assert contents["meta"] == EXTRA
    assert {type(tensor) for tensor in contents["model"].values()} == {torch.Tensor}
    assert not any(tensor.requires_grad for tensor in contents["model"].values())


def test_K5_names_are_those_of_the_bare_net(tmp_path: Path):
    net = small_net()
    compiled = nn.Module()
    compiled._orig_mod = net  # as torch.compile names it
    partly = nn.Sequential(nn.Module(), *net[1:])
    partly[0]._orig_mod = net[0]
    for wrapped in (compiled, nn.DataParallel(net), nn.DataParallel(compiled), partly):
        loaded = checkpoint.load(saved(tmp_path / "model.pt", wrapped))
        assert same(loaded.model, net.state_dict())
        with torch.no_grad():
            net[2].weight.zero_()
        checkpoint.load_into(wrapped, loaded.model)
        assert same(net.state_dict(), loaded.model)


def test_K5_a_part_of_the_net_may_be_called_module():
    net = nn.ModuleDict({"module": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    assert list(checkpoint.clean_names(net.state_dict())) == list(net.state_dict())


@pytest.mark.parametrize("value", [np.float64(0.5), object(), {1, 2}, np.zeros(3), {0.5: 1}, Path("x")])
def test_K5_only_tensors_and_plain_values_go_in(tmp_path: Path, value: object):
    with pytest.raises(TypeError, match=r"extra\.inner\[1\]"):
        checkpoint.save(tmp_path / "model.pt", model=small_net(), config={}, extra={"inner": [0, value]})
    assert list(tmp_path.iterdir()) == []


def test_the_state_of_an_optimiser_can_come_along(tmp_path: Path):
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net[2](torch.ones(1, 8)).sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path / "model.pt", model=net, config={}, extra={"optimizer": optimizer.state_dict()})
    loaded = checkpoint.load(tmp_path / "model.pt").meta["optimizer"]
    again = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    again.load_state_dict(loaded)
    assert torch.equal(again.state[net[2].weight]["momentum_buffer"], optimizer.state[net[2].weight]["momentum_buffer"])


def test_a_view_does_not_bring_its_whole_storage(tmp_path: Path):
    large = torch.zeros(1_000_000)
    checkpoint.save(tmp_path / "model.pt", model={"head": large[:10]}, config={})
    assert (tmp_path / "model.pt").stat().st_size < 10_000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_each_dtype_and_shape_survives(tmp_path: Path, dtype: torch.dtype):
    state = {str(shape): torch.ones(shape).to(dtype) for shape in ((), (0,), (3,), (2, 3, 4, 5))}
    checkpoint.save(tmp_path / "model.pt", model=state, config={})
    loaded = checkpoint.load(tmp_path / "model.pt").model
    assert same(loaded, state)
    assert {tensor.dtype for tensor in loaded.values()} == {dtype}


def half_then(then: Callable[[], Any]) -> Callable[..., None]:
    """A torch.save that writes half of a file and then does something else."""

    def broken_save(contents: object, path: Path) -> None:
        Path(path).write_bytes(b"PK" * 1_000)
        then()

    return broken_save


def test_K1_an_exception_while_saving_leaves_the_previous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    net = small_net()
    path = saved(tmp_path / "model.pt", net)

    def full_disk() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half_then(full_disk))
    with pytest.raises(OSError, match="No space"):
        saved(path, small_net(16))
    assert same(checkpoint.load(path).model, net.state_dict())
    assert list(tmp_path.iterdir()) == [path]


def test_K2_a_kill_while_saving_leaves_the_previous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    net, other = small_net(), small_net(16)
    path = saved(tmp_path / "model.pt", net)
    monkeypatch.setattr(torch, "save", half_then(lambda: os.kill(os.getpid(), signal.SIGKILL)))
    child = os.fork()
    if child == 0:
        try:
            saved(path, other)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert same(checkpoint.load(path).model, net.state_dict())


def test_K3_flipped_bits_are_detected(tmp_path: Path):
    """A flip anywhere is detected or without effect (zip's padding); among the weights it is always detected."""
    net = small_net()
    path = saved(tmp_path / "model.pt", net)
    sound = path.read_bytes()
    weights = net[0].weight.detach().numpy().tobytes()
    first = sound.index(weights)
    draw, messages = random.Random(0), []
    within = draw.sample(range(first, first + len(weights)), 40)
    for position in within + draw.sample(range(len(sound)), 160):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            loaded = checkpoint.load(path)
        except SpeedrunError as error:
            messages.append(str(error))
        else:
            assert position not in within
            assert same(loaded.model, net.state_dict())
            assert (loaded.config, loaded.meta) == (CONFIG, EXTRA)
    assert len(messages) >= len(within)
    assert all(str(path) in message for message in messages)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 0.9999])
def test_K3_truncation_is_detected(tmp_path: Path, share: float):
    path = saved(tmp_path / "model.pt", small_net())
    sound = path.read_bytes()
    path.write_bytes(sound[: int(share * len(sound))])
    with pytest.raises(SpeedrunError, match=r"model\.pt"):
        checkpoint.load(path)


def test_K3_a_changed_config_is_detected(tmp_path: Path):
    path = saved(tmp_path / "model.pt", small_net())
    contents = torch.load(path, weights_only=True)
    contents["config"]["width"] = 1.0
    torch.save(contents, path)
    with pytest.raises(SpeedrunError, match="checksum"):
        checkpoint.load(path)


class Malicious:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("legacy", [True, False])
def test_K4_a_malicious_pickle_is_refused(tmp_path: Path, legacy: bool):
    path, victim = tmp_path / "model.pt", tmp_path / "victim"
    contents = {"format": 1, "config": {}, "model": {}, "meta": Malicious(victim)}
    torch.save(contents, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(SpeedrunError, match=r"model\.pt") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("contents", "match"),
    [({"state_dict": {}}, "not a checkpoint"), ([1, 2], "not a checkpoint"), ({"format": 2}, "format 2")],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, contents: object, match: str):
    torch.save(contents, tmp_path / "model.pt")
    with pytest.raises(SpeedrunError, match=match):
        checkpoint.load(tmp_path / "model.pt")


def test_a_missing_file_is_one_line(tmp_path: Path):
    with pytest.raises(SpeedrunError, match=r"none\.pt: No such file or directory$"):
        checkpoint.load(tmp_path / "none.pt")


def test_K8_another_architecture_is_one_readable_difference():
    net = small_net(8)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = {**small_net(16).state_dict(), "3.extra": torch.zeros(5)}
    del state["1.bias"]
    with pytest.raises(SpeedrunError) as caught:
        checkpoint.load_into(net, state)
    message = str(caught.value)
    assert "\n" not in message
    for text in ("1.bias (8,)", "3.extra (5,)", "0.weight (16, 3, 3, 3), in the net (8, 3, 3, 3)"):
        assert text in message
    assert same(net.state_dict(), before)


def test_K8_a_long_difference_is_cut():
    state = {f"layer{index}": torch.zeros(1) for index in range(100)}
    with pytest.raises(SpeedrunError, match="and 94 more") as caught:
        checkpoint.load_into(small_net(), state)
    assert len(str(caught.value)) < 600
