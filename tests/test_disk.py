"""A disk that fills up while results are saved: the result is still told, the exit code says that its files are not."""

import json

import pytest

from speedrun import cli, session

TINY = ["--set", "model.widths=8,8,8", "--set", "model.depth=2", "--set", "batch_size=50", "--set", "resolutions=16"]


@pytest.mark.parametrize("part", ["checkpoint", "record"])
def test_F1_a_full_disk_at_the_end_costs_the_files_and_not_the_result(part, tiny_data, tmp_path, monkeypatch, capsys):
    def full(path, *args, **kwargs):
        if part == "checkpoint" or path.name == "result.json":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(session.checkpoint if part == "checkpoint" else session, _name(part), full)
    words = ["--steps", "2", "--dataset", str(tiny_data), "--out", str(tmp_path / "out"), "--json", *TINY]
    assert cli.main(words, 0.0) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["accuracy"] is not None
    assert "No space left on device" in captured.err
    assert "Traceback" not in captured.err


def _name(part):
    return "save" if part == "checkpoint" else "write_json"
