"""`python -m speedrun predict`: label images with a trained net or an ensemble, into a CSV file."""

import csv
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from speedrun import config as configs
from speedrun import files, record
from speedrun.arguments import Parser
from speedrun.config import Config
from speedrun.errors import SpeedrunError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from speedrun.images import Images
    from speedrun.predictor import Predictor

# Images on the device at once, as many as CIFAR-10's test set: its least certain ones are then those of the run itself.
PART = 10_000
FIELDS = ("device", "dtype", "tta", "data_dir", "dataset", "quiet", "json")


def parser() -> Parser:
    """The parser of this job."""
    result = Parser("python -m speedrun predict", "Label images with a trained net.")
    result.add_argument("--checkpoint", type=Path, required=True, metavar="RUN", help="a run's folder or its model.pt")
    images = "test, a folder of images, .npy, .npz or a pickle of `data` and `ids` (default test)"
    result.add_argument("--images", default="test", metavar="test|PATH", help=images)
    result.add_argument("--out", type=Path, required=True, metavar="FILE", help="CSV file; FILE.json: its record")
    result.add_argument("--header", default="id,label", metavar="A,B", help="first line, or none (default id,label)")
    result.add_argument("--labels", default="names", choices=("names", "indices"), help="what a label is shown as")
    result.add_argument("--probabilities", action="store_true", help="add a column of probabilities for each class")
    result.add_fields(FIELDS)
    return result


def main(argv: list[str], start: float) -> int:
    """Predict; returns the exit code. Raises UsageError, DataError and SpeedrunError."""
    options = vars(parser().parse_args(argv))
    given = {name: options.pop(name) for name in FIELDS if name in options}
    header = _header(options["header"])
    asked = configs.override(Config(), given)
    from speedrun import device, predictor

    choice = device.choose(asked.device)
    device.prepare(choice.device)
    members = predictor.load_members(options["checkpoint"], choice.device)
    dtype = device.choose(asked.device, given.get("dtype", members[0].config.dtype)).dtype
    for member in members:
        member.dtype = dtype
    images, truth = _open(options["images"], members[0], asked)
    out: Path = options["out"]
    try:
        with files.atomic_path(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            if out.is_dir():
                raise IsADirectoryError(0, "it is a folder")
            probabilities = _predict(members, images, asked.tta)
            _write(file, images.ids, probabilities, members[0].classes, header, options)
        accuracy = None if truth is None else float((probabilities.argmax(1) == truth).mean())
        result = {
            **record.envelope("prediction", device.describe(choice.device), age_seconds=time.monotonic() - start),
            "checkpoint": str(options["checkpoint"]),
            "members": len(members),
            "images": options["images"],
            "count": len(images.ids),
            "out": str(out),
            "accuracy": accuracy,
            "wall_seconds": time.monotonic() - start,
        }
        # Not result.json for result.csv: that may be a run's own record.
        files.write_json(out.with_name(f"{out.name}.json"), files.sealed(result))
    except OSError as error:
        raise SpeedrunError(f"{out} cannot be written: {error.strerror or error}") from None
    if asked.json:
        print(record.dumps(result))
    elif not asked.quiet:
        known = "" if accuracy is None else f", {100 * accuracy:.2f} % of them right"
        print(f"{out}: {len(images.ids):,} images{known}, {result['wall_seconds']:.1f} s")
    return 0


def _header(text: str) -> list[str]:
    """The names of the first two columns; none for no header."""
    names = [] if text == "none" else text.split(",")
    if names and (len(names) != 2 or not all(names)):
        raise UsageError(f"--header takes two names with a comma between them, or none, not {text!r}")
    return names


def _open(where: str, net: "Predictor", asked: Config) -> "tuple[Images, np.ndarray | None]":
    """The images, and their labels int64 (N,) where they are known."""
    from speedrun import data
    from speedrun.images import ArrayImages, open_images

    if where != "test":
        return open_images(Path(where), net.image_size), None
    named = net.dataset in data.NAMES
    name = net.dataset if named else net.config.dataset
    name = name if asked.dataset == Config().dataset else asked.dataset
    dataset = data.load(name, data_dir=asked.data_dir or net.config.data_dir)
    shape = dataset.test_images.shape[1:3]
    if min(shape) != net.image_size or len(dataset.classes) != len(net.classes):
        raise SpeedrunError(
            f"{dataset.name} has {len(dataset.classes)} classes and {min(shape)} pixels; "
            f"the net was trained on {len(net.classes)} and {net.image_size}"
        )
    return ArrayImages(range(len(dataset.test_images)), dataset.test_images), dataset.test_labels


def _predict(members: "list[Predictor]", images: "Images", tta: str) -> "np.ndarray":
    """Mean of the members' probabilities, float32 (N, classes), in the order of the images."""
    import numpy as np
    import torch

    parts = []
    for start in range(0, len(images.ids), PART):
        pixels = torch.from_numpy(np.array(images.part(start, start + PART))).to(members[0].mean.device)
        each = torch.stack([member.with_views(pixels, tta).softmax(1) for member in members])
        parts.append(each.mean(0).cpu().numpy())
    return np.concatenate(parts)


def _write(
    file: TextIO,
    ids: Any,
    probabilities: "np.ndarray",
    classes: tuple[str, ...],
    header: list[str],
    options: dict[str, Any],
) -> None:
    from speedrun.images import order

    writer = csv.writer(file, lineterminator="\n")
    if header:
        writer.writerow([*header, *(classes if options["probabilities"] else ())])
    labels = probabilities.argmax(1).tolist()
    for row in order(ids):
        label = classes[labels[row]] if options["labels"] == "names" else labels[row]
        shown = (f"{value:.6g}" for value in probabilities[row]) if options["probabilities"] else ()
        writer.writerow([ids[row], label, *shown])
