"""The benchmark of a training step: its record, its breakdown by kind of operation, and the floor beneath that."""

import dataclasses
import json
import sys
import time

import pytest
import torch

from benchmarks import breakdown, kinds, profile, readme
from benchmarks import step as steps
from benchmarks.breakdown import Work
from benchmarks.harness import Session
from benchmarks.kinds import AUGMENTATION, OPTIMISER, OTHER, kind_of
from kernels import conv_cpu, native, winograd
from speedrun import config as configs
from speedrun import device as devices
from speedrun import models, record, rungs
from speedrun.config import Config
from speedrun.errors import SpeedrunError, UsageError
from speedrun.machine import Machine

CPU = torch.device("cpu")
BATCH, SIZE = 40, 12


@pytest.fixture(scope="module")
def machine() -> Machine:
    choice = devices.choose("cpu", "float32")
    return Machine(choice, devices.describe(CPU), 1e9, steps.noise(100), *_noise(), None, {"train": "", "scored": ""})


def _noise() -> tuple[torch.Tensor, torch.Tensor]:
    noise = steps.noise(100)
    return torch.from_numpy(noise.train_images), torch.from_numpy(noise.train_labels)


@pytest.fixture(scope="module")
def config(machine: Machine) -> Config:
    base = configs.override(Config(), {"batch_size": BATCH, "compile": "off", "augment.cutout": 0})
    (found,) = steps.cases(base, machine, [(8, 16, 16)])
    return found


def test_every_net_of_the_table_is_a_case_unless_widths_are_given(machine: Machine, config: Config):
    assert config.model.widths == (8, 16, 16)
    assert config.batch_size == BATCH
    found = list(steps.cases(Config(), machine, []))
    measured = {rung.dials["model.widths"] for rung in rungs.table() if rung.measured}
    assert {each.model.widths for each in found} == measured
    assert len(found) == len({each.model for each in found})  # nets that differ in momentum alone are timed once
    assert all(each.resolutions and each.batch_size == len(machine.train_images) for each in found)


@pytest.mark.parametrize("name", ["mynet", "dsnet", "resnet18"])
def test_a_recipe_is_measured_with_its_own_net_however_few_are_asked_for(machine: Machine, name: str):
    options = steps.net_parser("").parse_args(["--recipe", name])
    base = steps.asked(name, options, machine)
    assert base.model.widths is not None
    (found,) = steps.cases(base, machine, steps.given_widths(options, base, one=True))
    assert found.model == base.model
    speednet = steps.asked("speednet", options, machine)
    assert steps.given_widths(options, speednet, one=True) == [steps.ONE_NET]
    options.widths = ["8,8,8"]
    assert steps.given_widths(options, base, one=True) == [(8, 8, 8)]


def test_any_field_of_the_config_can_be_set(machine: Machine):
    parse = steps.net_parser("").parse_args
    words = ["--set", "model.fused=norm,conv", "--set", "optim.fused=true", "--set", "model.widths=8,16,16"]
    options = parse(words)
    base = steps.asked("speednet", options, machine)
    (found,) = steps.cases(base, machine, steps.given_widths(options, base, one=False))
    assert (found.model.fused, found.optim.fused, found.model.widths) == (("norm", "conv"), True, (8, 16, 16))
    fields = steps.about(found, machine, words[3::2])
    assert "8/16/16 with model.widths=8,16,16 optim.fused=true, 24 pixels" in steps.title(fields, 24)
    refused = {"fast": "--set takes FIELD=VALUE, not 'fast'", "optim.fast=1": "unknown field optim.fast"}
    for wrong, message in refused.items():
        with pytest.raises(UsageError, match=message):
            steps.asked("speednet", parse(["--set", wrong]), machine)


def test_a_net_that_does_not_compile_is_measured_as_it_is(machine: Machine, config: Config, monkeypatch, capsys):
    monkeypatch.setattr(steps.Trainee, "compile", lambda *_: (None, "compilation failed"))
    trained = steps.prepared(dataclasses.replace(config, compile="default"), machine)
    assert steps.about(trained.config, machine)["compile"] == "off"
    assert "compilation failed" in capsys.readouterr().err


def test_a_recipe_that_does_not_fit_stops_no_other(machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys):
    tried: list[str] = []

    def measure_recipe(recipe: str, *_: object) -> None:
        tried.append(recipe)
        if recipe == "dsnet":
            raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")

    monkeypatch.setattr(steps, "measure_recipe", measure_recipe)
    monkeypatch.setattr(steps, "open_noise", lambda _: machine)
    monkeypatch.setattr(sys, "argv", ["step", "--recipe", "all"])
    assert steps.main() == 1
    assert {"dsnet", "mynet", "resnet18", "speednet"} <= set(tried)
    assert not any("published" in name for name in tried)
    assert "speednet-94" not in tried  # nor any other tier: two cores take minutes for a step of the largest
    assert "dsnet: no room for a step of dsnet" in capsys.readouterr().err


def test_a_step_makes_a_sound_record(machine: Machine, config: Config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(steps, "SQUARES", (32, 64))
    monkeypatch.setattr(steps, "CONVOLVED", (1, 4))
    # A probe that takes 20 ms.
    monkeypatch.setattr(steps.probe, "training_step", lambda *_: (1e6, lambda: time.sleep(0.02)))
    trained = steps.prepared(config, machine)
    fields = {**steps.about(trained.config, machine), **steps.measure(trained, SIZE, 0.0)}
    line = Session(CPU).line("step", {"size": SIZE}, **fields)
    assert record.check(line) == []
    assert line["flops"] == 3 * BATCH * models.forward_flops(trained.net, SIZE)
    assert line["images_per_second"] == pytest.approx(BATCH / line["seconds"]["median"])
    assert line["peak_flops_per_second"] == max(line["peaks"].values())
    assert set(line["peaks"]) == {"mm 32", "mm 64", "convolution"}
    assert 1e6 / 0.2 < line["probe_flops_per_second"] <= 1e6 / 0.02
    assert len(line["runs"]) == line["seconds"]["calls"]
    assert sum(line["breakdown"].values()) == pytest.approx(1)
    expected = {"convolutions, forward", "convolutions, backward", "pooling", "normalisation", "activation"}
    assert expected | {AUGMENTATION, OPTIMISER, "head and loss"} <= set(line["breakdown"])
    assert "speednet 8/16/16, 12 pixels, batch 40, float32, compile off" in steps.line(line)


def test_a_sharpness_aware_step_counts_both_of_its_passes(machine: Machine, config: Config, monkeypatch):
    monkeypatch.setattr(steps, "SQUARES", (32,))
    monkeypatch.setattr(steps, "CONVOLVED", (1, 4))
    trained = steps.prepared(configs.override(config, {"optim.sam": 0.05}), machine)
    found = steps.measure(trained, SIZE, 0.0)
    assert found["flops"] == 6 * BATCH * models.forward_flops(trained.net, SIZE)
    assert found["peak_share"] == pytest.approx(found["flops_per_second"] / found["peak_flops_per_second"])


def test_a_step_that_picks_images_is_refused(machine: Machine):
    options = steps.net_parser("").parse_args(["--set", "select.share=0.5"])
    with pytest.raises(UsageError, match=r"leave select\.share at 1"):
        steps.asked("speednet", options, machine)


def test_measuring_leaves_the_net_as_it_was(machine: Machine, config: Config):
    trained = steps.prepared(config, machine)
    call = breakdown.marked(trained, SIZE)
    call()
    before = [parameter.clone() for parameter in trained.net.parameters()]
    call()
    for parameter, was in zip(trained.net.parameters(), before, strict=True):
        torch.testing.assert_close(parameter, was)


def test_the_floor_counts_every_convolution_and_each_byte_once(machine: Machine, config: Config):
    trained = steps.prepared(config, machine)
    works = breakdown.work(trained.step(), trained.stream(), SIZE)
    flops = {kind: sum(each.flops for each in found) for kind, found in works.items()}
    head = 2 * BATCH * 16 * 10
    forward = models.forward_flops(trained.net, SIZE) * BATCH
    assert flops["convolutions, forward"] == forward - head
    # The whitening is frozen by now: it has no backward pass, and what it gives wants no gradient.
    first, pixels = trained.net.groups[0].convs[0], (SIZE - 1) ** 2
    whitening, beside = (2 * BATCH * each.weight.numel() * pixels for each in (trained.net.whiten, first))
    assert flops["convolutions, backward"] == 2 * (forward - head - whitening) - beside
    assert flops["head and loss"] == 3 * head
    assert flops[OPTIMISER] > 0  # Newton-Schulz multiplies matrices
    assert works[AUGMENTATION] == [Work(0, BATCH * (32 * 32 * 3 + SIZE * SIZE * 3 * 4))]
    moved = 4 * (BATCH * pixels * (first.in_channels + first.out_channels) + first.weight.numel())
    assert moved in [each.bytes for each in works["convolutions, forward"]]


def test_a_floor_is_bound_by_the_slower_of_multiplying_and_moving():
    assert Work(2e9, 1e6).floor(1e12, 1e9) == 2e-3
    assert Work(2e9, 1e7).floor(1e12, 1e9) == 1e-2
    table = profile.table(dict.fromkeys(kinds.KINDS, 0.0) | {"pooling": 0.02}, {"pooling": [Work(0, 1e7)]}, 1e12, 1e9)
    assert "| pooling | 20 | 100.0% | 10 | 2.0x | 0 | 10 |" in table


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["aten::copy_", "aten::mkldnn_convolution", "aten::conv2d"], "convolutions, forward"),
        (["aten::empty", "aten::convolution_backward", "ConvolutionBackward0"], "convolutions, backward"),
        (["aten::mm", "Optimizer.step#Muon.step"], OPTIMISER),
        (["aten::max_pool2d", "augmentation"], AUGMENTATION),
        (["aten::mm", "aten::linear"], "head and loss"),
        (["aten::native_batch_norm_backward"], "normalisation"),
        (["cudaLaunchKernel", "_PoolNorm"], "normalisation"),
        (["_PoolNormBackward"], "normalisation"),
        (["_ConvPoolNorm"], "convolutions, forward"),
        (["_ConvPoolNormBackward"], "convolutions, backward"),
        (["_ConvFp8"], "convolutions, forward"),
        (["aten::empty", "_ConvFp8Backward"], "convolutions, backward"),
        (["aten::mm", "_ConvCpuBackward"], "convolutions, backward"),
        (["aten::comm"], OTHER),
        ([], OTHER),
    ],
)
def test_an_operation_belongs_to_its_region_then_to_its_nearest_caller(names: list[str], kind: str):
    assert kind_of(names) == kind


def test_products_in_the_backward_pass_of_a_convolution_count_as_its(machine: Machine, config: Config, monkeypatch):
    monkeypatch.setattr(winograd, "pays", lambda *_: False)  # tiles take fewer operations
    monkeypatch.setattr(conv_cpu, "pays", lambda *_: False)
    (config,) = steps.cases(configs.override(config, {"model.widths": "64,8,8"}), machine, [(64, 8, 8)])
    plain, by_products = steps.prepared(config, machine), steps.prepared(config, machine)
    expected = breakdown.work(plain.step(), plain.stream(), SIZE)
    monkeypatch.setattr(conv_cpu, "pays", lambda x, weight: x.shape[1] >= 64)
    monkeypatch.setattr(native, "has", lambda feature: feature == "amx_tile")  # the way that leaves nothing out
    found = breakdown.work(by_products.step(), by_products.stream(), SIZE)
    for kind in ("convolutions, backward", "head and loss"):
        assert sum(each.flops for each in found[kind]) == sum(each.flops for each in expected[kind])


def test_memory_is_the_most_that_is_held_at_once():
    def call() -> None:
        for _ in range(3):
            held = torch.empty(1000, dtype=torch.float64)
            del held
        both = torch.empty(2000, dtype=torch.float64), torch.empty(1000, dtype=torch.float64)
        del both

    assert 24_000 <= breakdown.profiled(call, CPU).memory < 32_000


def test_the_profile_is_a_table_and_a_trace(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(steps, "SQUARES", (32,))
    monkeypatch.setattr(steps, "CONVOLVED", (1, 4))
    monkeypatch.setattr(steps, "IMAGES", 100)
    monkeypatch.setattr(profile, "PEAK_SECONDS", 0.0)
    monkeypatch.setattr(profile, "copy_bandwidth", lambda _: 1e9)
    trace = tmp_path / "trace.json"
    words = ["--widths", "8,8,8", "--size", "9", "--batch", "8", "--device", "cpu", "--dtype", "float32"]
    monkeypatch.setattr(sys, "argv", ["profile", *words, "--trace", str(trace)])
    assert profile.main() == 0
    out = capsys.readouterr().out
    assert "speednet 8/8/8, 9 pixels, batch 8, float32" in out
    assert "| the step |" in out
    assert any(event.get("name") == "augmentation" for event in json.loads(trace.read_text())["traceEvents"])
    monkeypatch.setattr(sys, "argv", ["profile", *words, "--trace", str(tmp_path / "none" / "trace.json")])
    with pytest.raises(SpeedrunError, match="No such file"):
        profile.main()


def test_the_table_of_steps_shows_the_newest_commit_at_the_largest_size():
    def step(started: str, sha: str, median: float, size: int = 24) -> dict:
        return {
            "kind": "step",
            "started": started,
            "git": {"sha": sha, "dirty": False},
            "versions": {"torch": "2.9"},
            "device": {"name": "GPU", "kind": "cuda"},
            **{"recipe": "speednet", "model": {"widths": [8, 16, 16], "depth": 3}, "size": size, "batch": 1000},
            **{"dtype": "bfloat16", "compile": "default", "threads": None, "memory": 2**30, "peak_share": 0.25},
            **{"seconds": {"median": median}, "flops_per_second": 2e14, "breakdown": {"pooling": 0.1, "other": 0.9}},
        }

    old = [step("1", "a", 0.5), step("1", "a", 0.001, size=32)]
    other = {**step("3", "b", 0.005), "changed": ["optim.fused=true"]}  # of other dials: a row of its own
    new = [step("2", "b", 0.010), step("3", "b", 0.020), step("3", "b", 0.7, 20), other]
    table = readme.steps([*new, *old, {"kind": "run"}])
    numbers = "15 | 66,667 | 200 | 25% | 1,024 | other 90%, pooling 10% |"
    assert table.splitlines()[2:] == [
        f"| GPU | speednet 8/16/16 depth 3 | 24 | 1000 | bfloat16, default | {numbers}",
        "| GPU | speednet 8/16/16 depth 3 with optim.fused=true | 24 | 1000 | bfloat16, default | 5 | 200,000 | 200 "
        "| 25% | 1,024 | other 90%, pooling 10% |",
    ]
    assert readme.steps([{"kind": "run"}]) == ""
