"""The model of a step on many devices, against what can be said without a machine."""

import json

import pytest
from machines import circumstances, envelope
from test_record import DEVICE

from benchmarks import scaling_model
from benchmarks.scaling_model import DEVICES, Costs, Link, costs_of, link_of, predict, worthwhile
from speedrun import cli, record
from speedrun.schema import KINDS

COSTS = Costs(fixed=0.02, image=1e-3, orthogonalise=0.01, batch=1000, gradient_bytes=8e6, update_bytes=4e6)
INSTANT = Link(bandwidth=1e18, latency=0.0)


def test_one_device_takes_what_was_measured():
    assert predict(COSTS, Link(1.0, 1.0), 1) == pytest.approx(0.02 + 1.0)


def test_without_messages_only_what_cannot_be_shared_is_left():
    assert predict(COSTS, INSTANT, 4) == pytest.approx(0.01 + 0.01 / 4 + 1.0 / 4)
    assert worthwhile(COSTS, INSTANT) == 64


def test_a_ring_sends_each_byte_twice_and_updates_once():
    link = Link(bandwidth=1e8, latency=0.0)
    assert predict(COSTS, link, 2) - predict(COSTS, INSTANT, 2) == pytest.approx((2 * 8e6 / 2 + 4e6 / 2) / 1e8)


def test_the_backward_pass_hides_all_but_the_last_bucket():
    link, hiding = Link(1e8, 0.0), Link(1e8, 0.0, overlap=1.0)
    buckets = 4  # 8 MB by 2 MiB
    saved = predict(COSTS, link, 2) - predict(COSTS, hiding, 2)
    assert saved == pytest.approx(8e6 / 1e8 * (1 - 1 / buckets))


def test_slow_messages_make_more_devices_not_worth_it():
    slow = Link(bandwidth=1e9, latency=1e-3)
    assert 1 < worthwhile(COSTS, slow) < 64
    times = [predict(COSTS, slow, devices) for devices in DEVICES]
    assert times.index(min(times)) < len(times) - 1


def test_costs_and_link_are_those_that_the_measurements_follow():
    found = {"step": 1.02, "half_step": 0.52, "batch": 1000, "gradient_bytes": 8e6, "update_bytes": 4e6}
    costs = costs_of({**found, "orthogonalise": 0.01})
    assert (costs.fixed, costs.image) == pytest.approx((0.02, 1e-3))
    assert predict(costs, INSTANT, 1) == pytest.approx(1.02)
    link = link_of({"bytes": 8e6, "small": 2e-4, "large": 0.0802})
    assert (link.bandwidth, link.latency) == pytest.approx((1e8, 1e-4))


def test_what_is_found_is_told_and_recorded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    found = {"dials": {"model.widths": [8, 8, 8]}, "step": 1.02, "half_step": 0.52, "batch": 1000}
    found |= {"gradient_bytes": 8e6, "update_bytes": 4e6, "orthogonalise": 0.01}
    found |= {"bytes": 8e6, "small": 2e-4, "large": 0.0802}
    monkeypatch.setattr(scaling_model, "measure", lambda *_: found)
    monkeypatch.setattr(scaling_model, "measure_members", lambda *_: {"1": 50.0, "2": 55.0})
    assert scaling_model.main(["--seconds=60", "--dry"]) == 0
    told = capsys.readouterr().out
    assert "worth it up to" in told
    assert "4 members: 55.0 s by two, 50.0 by one" in told
    values = scaling_model.values(60.0, None, 0.0, with_members=True)
    assert values["of_one_process"] == 1.0
    assert json.loads(json.dumps(values)) == values
    assert "scaling_model" in KINDS
    line = {**envelope("scaling_model", DEVICE), **circumstances(budget=60.0), "values": values}
    assert record.check(line) == []
    newer = {**line, "values": {**values, "members": None}, "started": "2999-01-01T00:00:00Z"}
    assert scaling_model.table([]) == ""
    row = scaling_model.table([line]).splitlines()[2]
    assert all(part in row for part in ("60 s, 8/8/8", "0.1, 100", "1.00", "1.10 of its time"))
    assert "of its time" not in scaling_model.table([newer, line])


def test_members_are_timed_from_outside_by_one_process_and_by_two(monkeypatch: pytest.MonkeyPatch):
    started = []
    monkeypatch.setattr(scaling_model, "_run", lambda *asked: started.append(asked))
    found = scaling_model.measure_members({"model.widths": [8, 8, 8], "batch_size": 50}, 0.1, cores=4)
    assert list(found) == ["1", "2"]
    assert [(count, threads) for count, threads, _ in started] == [(1, 4), (2, 2)]
    assert cli.parse([word for word in started[0][2][2:] if "members" not in word]).steps == 100
