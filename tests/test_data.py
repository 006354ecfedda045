"""Finding and decoding datasets, and every way in which a copy can be wrong."""

import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from cifar_copies import PER_FILE, contents, expected_images, flip, pack, publish, unpack

from speedrun import cifar, data, fetch, imagecache
from speedrun.catalogue import CIFAR10, CIFAR100, KNOWN
from speedrun.errors import DataError, FetchError, UsageError
from speedrun.formats import Splits

PYTHON, BINARY = CIFAR10.layouts


@pytest.fixture(autouse=True)
def nothing_but_what_a_test_makes(monkeypatch, tmp_path):
    """No data of this machine, and no network."""
    monkeypatch.delenv("SPEEDRUN_DATA", raising=False)
    monkeypatch.setenv("SPEEDRUN_CACHE", str(tmp_path / "user-cache"))

    def refuse(name: str, cache_dir: Path, **_: object) -> None:
        raise FetchError("no network in this test")

    monkeypatch.setattr(fetch, "fetch", refuse)


# -- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True], ids=["unpacked", "packed"])
@pytest.mark.parametrize("number", [0, 1], ids=["python", "binary"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_every_official_layout_gives_the_same_images(name, number, packed, tmp_path, monkeypatch):
    known = publish(monkeypatch, name)
    layout = known.layouts[number]
    (pack if packed else unpack)(tmp_path, layout, contents(known, layout))
    dataset = data.load(name, data_dir=tmp_path)
    images = np.concatenate([dataset.train_images, dataset.test_images])
    np.testing.assert_array_equal(images, expected_images(layout))
    assert dataset.name == name
    assert dataset.classes == known.classes
    assert len(dataset.test_images) == PER_FILE
    assert dataset.train_labels.dtype == np.int64
    assert dataset.train_images.flags.c_contiguous
    reference = data.load(name, data_dir=unpack(tmp_path / "r", known.layouts[0], contents(known, known.layouts[0])))
    np.testing.assert_array_equal(dataset.train_labels, reference.train_labels)
    np.testing.assert_array_equal(dataset.test_labels, reference.test_labels)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol_are_read(protocol, tmp_path):
    unpack(tmp_path, PYTHON, contents(CIFAR10, PYTHON, protocol))
    dataset = data.load("cifar10", data_dir=tmp_path)
    np.testing.assert_array_equal(dataset.test_images, expected_images(PYTHON)[-PER_FILE:])


def test_other_images_in_the_official_layout_go_by_another_name(tmp_path):
    unpack(tmp_path, PYTHON, contents(CIFAR10, PYTHON))
    dataset = data.load("cifar10", data_dir=tmp_path)
    assert dataset.name == "cifar10-modified"
    assert "other images than the official" in dataset.notes[0]


def test_places_are_searched_in_order(tmp_path, monkeypatch):
    places = [tmp_path / "given", tmp_path / "variable", tmp_path / "user-cache"]
    for place in places:
        unpack(place, PYTHON, contents(CIFAR10, PYTHON))
    monkeypatch.setenv("SPEEDRUN_DATA", str(places[1]))
    for data_dir, place in ((places[0], places[0]), (None, places[1]), (tmp_path / "empty", places[1])):
        assert data.find("auto", data_dir=data_dir).path == place / PYTHON.folder
    monkeypatch.delenv("SPEEDRUN_DATA")
    assert data.find("auto").path == places[2] / PYTHON.folder
    assert Path(data.load("auto").source) == places[2] / PYTHON.folder


def test_the_folder_itself_may_be_given_under_any_name(tmp_path):
    folder = unpack(tmp_path, BINARY, contents(CIFAR10, BINARY)).rename(tmp_path / "images")
    assert data.find("cifar10", data_dir=folder) == data.Found(
        "cifar10", "unpacked", folder, False, (folder, tmp_path / "user-cache")
    )


def test_unpacked_comes_before_packed(tmp_path):
    pack(tmp_path, PYTHON, contents(CIFAR10, PYTHON))
    unpack(tmp_path, BINARY, contents(CIFAR10, BINARY))
    assert data.find("cifar10", data_dir=tmp_path).path == tmp_path / BINARY.folder


def test_cifar100_has_fine_labels(tmp_path):
    layout = CIFAR100.layouts[0]
    files = {
        file.name: pickle.dumps(
            {"data": np.zeros((2, 3072), np.uint8), "fine_labels": [99, 3], "coarse_labels": [1, 1]}, protocol=2
        )
        for file in layout.files
    }
    unpack(tmp_path, layout, files)
    assert data.load("cifar100", data_dir=tmp_path).train_labels.tolist() == [99, 3]


# -- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [0, 1], ids=["python", "binary"])
@pytest.mark.parametrize("victims", [1, 6], ids=["one file", "all files"])
def test_a_flipped_bit_is_found(layout, victims, tmp_path, monkeypatch):
    known = publish(monkeypatch)
    folder = unpack(tmp_path, known.layouts[layout], contents(known, known.layouts[layout]))
    files = sorted(folder.iterdir())[:victims]
    for file in files:
        flip(file)
    with pytest.raises(DataError, match=rf"{files[0]} is damaged: expected \d+ bytes, MD5 \w+; found \d+ bytes, MD5"):
        data.load("auto", data_dir=tmp_path)


def test_a_truncated_file_is_found(tmp_path, monkeypatch):
    known = publish(monkeypatch)
    folder = unpack(tmp_path, known.layouts[1], contents(known, known.layouts[1]))
    file = folder / "data_batch_4.bin"
    file.write_bytes(file.read_bytes()[:-3073])  # whole records: its shape alone would not tell
    with pytest.raises(DataError, match=r"data_batch_4\.bin is damaged"):
        data.load("cifar10", data_dir=tmp_path)


def test_a_missing_file_is_named(tmp_path):
    folder = unpack(tmp_path, PYTHON, contents(CIFAR10, PYTHON))
    (folder / "data_batch_3").unlink()
    with pytest.raises(DataError, match="data_batch_3 is missing"):
        data.load("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "html", "member missing"])
def test_a_damaged_archive_is_named(damage, tmp_path, monkeypatch):
    known = publish(monkeypatch)
    files = contents(known, known.layouts[0])
    if damage == "member missing":
        del files["test_batch"]
    archive = pack(tmp_path, known.layouts[0], files)
    if damage == "truncated":
        archive.write_bytes(archive.read_bytes()[:-2000])
    if damage == "flipped":
        flip(archive)
    if damage == "html":
        archive.write_text("<html>503</html>")
    with pytest.raises(DataError, match=str(archive)):
        data.load("cifar10", data_dir=tmp_path)


def test_damage_is_never_skipped_for_another_copy(tmp_path, monkeypatch):
    known = publish(monkeypatch)
    flip(unpack(tmp_path / "given", known.layouts[0], contents(known, known.layouts[0])) / "test_batch")
    unpack(tmp_path / "user-cache", known.layouts[0], contents(known, known.layouts[0]))
    with pytest.raises(DataError, match="test_batch is damaged"):
        data.load("auto", data_dir=tmp_path / "given")


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil-was-here"),))


@pytest.mark.parametrize("payload", [Evil(), {"data": Evil()}, np.array([Evil()], object)])
def test_D8_a_pickle_that_asks_for_more_is_refused_and_runs_nothing(payload, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = contents(CIFAR10, PYTHON) | {"data_batch_1": pickle.dumps(payload, protocol=2)}
    unpack(tmp_path, PYTHON, files)
    with pytest.raises(DataError, match=r"data_batch_1 is not a CIFAR batch: refused, it asks for"):
        data.load("cifar10", data_dir=tmp_path)
    assert not Path("evil-was-here").exists()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (member("../outside"), "leaves the folder"),
        (member("cifar-10-batches-py/../../outside"), "leaves the folder"),
        (member("/etc/outside"), "leaves the folder"),
        (member("C:\\outside"), "leaves the folder"),
        (member("cifar-10-batches-py/link", tarfile.SYMTYPE, "/etc/passwd"), "link"),
        (member("cifar-10-batches-py/link", tarfile.LNKTYPE, "../outside"), "link"),
        (member("cifar-10-batches-py/pipe", tarfile.FIFOTYPE), "device"),
        (member("cifar-10-batches-py/huge", size=(1 << 29) + 1), "has 536870913 bytes"),
    ],
    ids=lambda value: value.name if isinstance(value, tarfile.TarInfo) else "",
)
def test_D8_archive_members_that_leave_the_folder_are_refused(extra, reason, tmp_path):
    pack(tmp_path, PYTHON, contents(CIFAR10, PYTHON), extra)
    with pytest.raises(DataError, match=f"refused, its member .* {reason}"):
        data.load("cifar10", data_dir=tmp_path)


PLANES = np.zeros((4, 3072), np.uint8)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"data": PLANES[:, :3000], "labels": [0, 1, 2, 3]}, r"expected uint8 \(N, 3072\), found uint8 \(4, 3000\)"),
        ({"data": PLANES.astype(np.int16), "labels": [0, 1, 2, 3]}, "expected uint8 .* found int16"),
        ({"data": PLANES.astype(np.float32), "labels": [0, 1, 2, 3]}, "data: expected an array of integers"),
        ({"data": PLANES, "labels": [0, 1, 2]}, "expected 4 integers, found .*3"),
        ({"data": PLANES, "labels": [0, 1, 2, 10]}, "labels: expected 0 to 9, found 10"),
        ({"data": PLANES, "labels": [0, 1, 2, -1]}, "labels: expected 0 to 9, found -1"),
        ({"data": PLANES, "labels": [0, 1, 2, 2**70]}, "labels: expected an array of integers"),
        ({"data": PLANES, "labels": "0123"}, "labels: expected integers, found str"),
        ({"data": PLANES}, "expected the key 'labels'"),
        ([PLANES], "expected a dict, found list"),
        ({"data": PLANES[:0], "labels": []}, "found uint8"),
    ],
)
def test_D9_wrong_batches_are_named(batch, message, tmp_path):
    files = contents(CIFAR10, PYTHON) | {"data_batch_2": pickle.dumps(batch, protocol=4)}
    unpack(tmp_path, PYTHON, files)
    with pytest.raises(DataError, match=f"data_batch_2.*{message}"):
        data.load("cifar10", data_dir=tmp_path)


def test_D9_a_dataset_cannot_be_made_of_wrong_arrays():
    images, labels = np.zeros((3, 8, 8, 3), np.uint8), np.arange(3)

    def dataset(*arrays: np.ndarray) -> data.Dataset:
        return data.Dataset("own", *Splits(*arrays), classes=("a", "b", "c"), source="here")

    dataset(images, labels, images, labels)
    for wrong, wrong_labels in (
        (images.astype(np.float32), labels),
        (images.transpose(0, 3, 1, 2), labels),
        (images[:, ::2], labels),
        (images, labels[:2]),
        (images, labels.astype(np.int32)),
        (images, labels + 1),
        (images, labels - 1),
    ):
        with pytest.raises(DataError, match=r"here: train_\w+: expected .* found"):
            dataset(wrong, wrong_labels, images, labels)
        with pytest.raises(DataError, match=r"here: test_\w+: expected .* found"):
            dataset(images, labels, wrong, wrong_labels)


# -- the cache of decoded images ------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    known = publish(monkeypatch)
    return pack(tmp_path, known.layouts[0], contents(known, known.layouts[0]))


def test_decoded_images_are_kept_and_used(archive, monkeypatch):
    cold = data.load("cifar10", data_dir=archive.parent)
    monkeypatch.setattr(data, "read_copy", lambda copy: pytest.fail("decoded a second time"))
    warm = data.load("cifar10", data_dir=archive.parent)
    assert (cold.warm, warm.warm) == (False, True)
    np.testing.assert_array_equal(warm.train_images, cold.train_images)
    np.testing.assert_array_equal(warm.test_labels, cold.test_labels)
    assert warm.name == cold.name == "cifar10"


@pytest.mark.parametrize("place", ["header", "images", "end"])
def test_D10_a_damaged_cache_is_rebuilt_once(place, archive, tmp_path):
    data.load("cifar10", data_dir=archive.parent)
    (cache,) = (tmp_path / "user-cache").iterdir()
    damaged = bytearray(cache.read_bytes())
    damaged[{"header": 20, "images": len(damaged) // 2, "end": -1}[place]] ^= 64
    cache.write_bytes(damaged[:-7] if place == "end" else damaged)
    rebuilt = data.load("cifar10", data_dir=archive.parent)
    assert not rebuilt.warm
    assert "is damaged" in rebuilt.notes[0]
    assert "decoded again" in rebuilt.notes[0]
    np.testing.assert_array_equal(rebuilt.test_images, expected_images(PYTHON)[-PER_FILE:])
    assert data.load("cifar10", data_dir=archive.parent).warm


def test_D10_an_unreadable_cache_header_is_damage(tmp_path):
    path = tmp_path / "x.images"
    for content in (b"", b"short", b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"x.images is damaged"):
            imagecache.read(path, {})


def test_a_changed_source_is_decoded_again(archive, tmp_path):
    data.load("cifar10", data_dir=archive.parent)
    pack(tmp_path / "again", KNOWN["cifar10"].layouts[0], contents(CIFAR10, PYTHON)).replace(archive)
    assert not data.load("cifar10", data_dir=archive.parent).warm
    assert len(list((tmp_path / "user-cache").iterdir())) == 1


def test_D11_a_cache_that_cannot_be_written_costs_a_note_and_no_more(archive, tmp_path):
    (tmp_path / "user-cache").write_text("a file where the folder should be")
    dataset = data.load("cifar10", data_dir=archive.parent)
    assert "$SPEEDRUN_CACHE" in dataset.notes[0]
    assert not dataset.warm


def test_modified_images_are_not_kept(tmp_path):
    pack(tmp_path, PYTHON, contents(CIFAR10, PYTHON))
    assert data.load("cifar10", data_dir=tmp_path).name == "cifar10-modified"
    assert not (tmp_path / "user-cache").exists()


# -- names, and what is not there ------------------------------------------------------------------------------------


def test_auto_falls_back_to_the_synthetic_set_and_says_why():
    dataset = data.load("auto")
    assert dataset.name == "synthetic"
    assert dataset.reason == "no network in this test"
    assert data.load("synthetic").reason == ""


def test_cifar10_does_not_fall_back():
    with pytest.raises(FetchError, match="no network"):
        data.load("cifar10")
    assert data.find("cifar10").needs_fetch


@pytest.mark.parametrize("name", ["cifar", "CIFAR10", "", "mine.npy"])
def test_an_unknown_name_is_a_usage_error(name):
    for use in (data.load, data.find):
        with pytest.raises(
            UsageError, match=r"expected auto, cifar10, cifar100, synthetic or a path that ends in .npz"
        ):
            use(name)


def test_the_cache_is_where_the_platform_has_it(monkeypatch):
    assert data.default_cache_dir().name == "user-cache"
    monkeypatch.delenv("SPEEDRUN_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert data.default_cache_dir() == Path("/xdg/speedrun")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data.default_cache_dir() == Path.home() / ".cache" / "speedrun"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert data.default_cache_dir() == Path.home() / "Library" / "Caches" / "speedrun"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert data.default_cache_dir() == Path("/local/speedrun/Cache")


def test_loading_never_imports_torch():
    code = (
        "import sys; from speedrun import data, fetch, npz, synthetic; data.load('synthetic')\n"
        "assert not {'torch', 'rich', 'triton'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


# -- the real set ----------------------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_the_real_cifar10(real_data):
    dataset = data.load("cifar10", data_dir=real_data)
    assert dataset.name == "cifar10"
    assert dataset.train_images.shape == (50_000, 32, 32, 3)
    assert np.bincount(dataset.train_labels).tolist() == [5_000] * 10
    assert np.bincount(dataset.test_labels).tolist() == [1_000] * 10
    # The mean of each channel that every public recipe has.
    np.testing.assert_allclose(dataset.train_images.mean((0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=5e-5)


@pytest.mark.real_data
def test_the_binary_layout_of_the_real_set_is_official(real_data, tmp_path):
    copy = cifar.find_copy(CIFAR10, real_data)
    assert copy is not None
    splits, _ = cifar.read_copy(copy)
    images = np.concatenate([splits.train_images, splits.test_images]).transpose(0, 3, 1, 2).reshape(60_000, -1)
    labels = np.concatenate([splits.train_labels, splits.test_labels]).astype(np.uint8)
    records = np.column_stack([labels, images])
    unpack(
        tmp_path, BINARY, {f.name: part.tobytes() for f, part in zip(BINARY.files, np.split(records, 6), strict=True)}
    )
    assert data.load("cifar10", data_dir=tmp_path).name == "cifar10"


@pytest.mark.real_data
def test_a_flipped_bit_in_the_real_set_is_found(real_data, tmp_path):
    copy = cifar.find_copy(CIFAR10, real_data)
    assert copy is not None
    folder = tmp_path / PYTHON.folder
    folder.mkdir()
    for file in PYTHON.files:
        (folder / file.name).symlink_to((copy.path / file.name).resolve())
    content = (folder / "test_batch").read_bytes()
    (folder / "test_batch").unlink()
    (folder / "test_batch").write_bytes(content)
    flip(folder / "test_batch")
    with pytest.raises(DataError, match=r"test_batch is damaged: .* MD5 40351d587109b95175f43aff81a1287e; found"):
        data.load("auto", data_dir=tmp_path)
