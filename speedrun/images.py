"""Images to be predicted, whatever holds them: a folder, .npy, .npz or a pickle. numpy, and Pillow for folders.

Nothing is turned into floats here, and a folder or a .npy file is read part by part: 300,000 images of 32 pixels are
0.9 GB as they lie on the disk and 3.7 GB as floats.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speedrun.errors import DataError, SpeedrunError
from speedrun.formats import decode_unlabelled
from speedrun.npz import NUMPY_ERRORS

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp")
EXPECTED = "uint8 (N, H, W, 3)"


@dataclass(frozen=True)
class ArrayImages:
    """Images of one array. ids: of each image, N integers or texts. pixels: uint8 (N, H, W, 3)."""

    ids: Sequence[int] | Sequence[str]
    pixels: np.ndarray

    def part(self, start: int, stop: int) -> np.ndarray:
        """Images `start` to `stop` - 1, uint8 (stop - start, H, W, 3)."""
        return self.pixels[start:stop]


@dataclass(frozen=True)
class FolderImages:
    """Images of files, all of one size. ids: of each file, N integers or texts. size: the shorter side in pixels."""

    ids: Sequence[int] | Sequence[str]
    files: Sequence[Path]
    size: int

    def part(self, start: int, stop: int) -> np.ndarray:
        """Images `start` to `stop` - 1, uint8 (stop - start, H, W, 3). Raises DataError that names a file."""
        images = [_decode(path, self.size) for path in self.files[start:stop]]
        if len({image.shape for image in images}) > 1:
            raise DataError(f"{self.files[start].parent}: the images are of several sizes")
        return np.stack(images)


Images = ArrayImages | FolderImages


def open_images(path: Path, size: int) -> Images:
    """Find the images at `path`; `size` is the shorter side in pixels that they must have.

    A folder's ids are its files' names without suffix, integers where all are; the others' are `ids` where the file
    has them, else 0 to N-1. Raises DataError that names the file, SpeedrunError where Pillow is needed and missing.
    """
    if path.is_dir():
        return _open_folder(path, size)
    pixels, ids = _read(path)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or len(pixels) == 0:
        raise DataError(f"{path}: expected images {EXPECTED}, found {pixels.dtype} {pixels.shape}")
    if min(pixels.shape[1:3]) != size:
        height, width = pixels.shape[1:3]
        raise DataError(
            f"{path}: expected images of {size} pixels, as the net was trained on; found {height} x {width}"
        )
    if ids is None:
        ids = np.arange(len(pixels))
    if ids.dtype.kind not in "iuU" or ids.shape != pixels.shape[:1]:
        raise DataError(f"{path}: ids: expected {len(pixels)} integers or names, found {ids.dtype} {ids.shape}")
    _refuse_twins(ids.tolist(), path)
    return ArrayImages(ids.tolist(), pixels)


def order(ids: Sequence[int] | Sequence[str]) -> list[int]:
    """Positions of the ids in the order of their numbers; names that are no numbers come last, by name."""

    def key(position: int) -> tuple[bool, int, str]:
        text = str(ids[position])
        return (False, int(text), text) if text.removeprefix("-").isdecimal() else (True, 0, text)

    return sorted(range(len(ids)), key=key)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The pixels and ids of a file, as they are."""
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False), None
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                name = next((name for name in ("images", "data") if name in file.files), None)
                if name is None:
                    raise DataError(f"{path}: expected an array named images, found {', '.join(file.files) or 'none'}")
                return file[name], file["ids"] if "ids" in file.files else None
        return decode_unlabelled(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except NUMPY_ERRORS as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _open_folder(folder: Path, size: int) -> FolderImages:
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise SpeedrunError("a folder of images needs Pillow: pip install 'speedrun[images]'") from None
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(f"{folder}: expected images ({', '.join(SUFFIXES)}), found none")
    names = [path.stem for path in files]
    numbered = all(name.isdecimal() for name in names)
    ids: Sequence[int] | Sequence[str] = [int(name) for name in names] if numbered else names
    _refuse_twins(ids, folder)
    return FolderImages(ids, files, size)


def _refuse_twins(ids: Sequence[int] | Sequence[str], where: Path) -> None:
    """Raise DataError where two images have one id."""
    ((ident, count),) = Counter(ids).most_common(1)
    if count > 1:
        raise DataError(f"{where}: {count} images are called {ident}")


def _decode(path: Path, size: int) -> np.ndarray:
    """One image, uint8 (H, W, 3)."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.mode != "RGB" or min(image.size) != size:
                found = f"{image.mode} {image.height} x {image.width}"
                raise DataError(f"{path}: expected RGB of {size} pixels, as the net was trained on; found {found}")
            return np.asarray(image)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:  # Pillow's PNG reader raises the last
        raise DataError(f"{path} is not a readable image: {error}") from error
