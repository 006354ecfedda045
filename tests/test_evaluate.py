"""Views at test, by hand."""

import pytest
import torch
from torch import Tensor, nn

from speedrun import planner
from speedrun.evaluate import VIEWS, Evaluator, accuracy, views
from speedrun.stream import Normalization

COUNT = 37
IMAGES = torch.randint(0, 256, (COUNT, 16, 16, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
NORMALIZATION = Normalization.of(IMAGES)
Shift = tuple[int, int]


class Recorder(nn.Module):
    """A linear net over all pixels, so that every view counts; remembers the batches it was given."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = torch.randn(4, 3 * 16 * 16, generator=generator) / 10
        self.batches: list[Tensor] = []
        self.modes: set[bool] = set()

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(images)
        self.modes.add(self.training)
        return images.flatten(1).to(self.weight.dtype) @ self.weight.T

    @property
    def images(self) -> int:
        return sum(map(len, self.batches))


def evaluator(net: nn.Module | None = None, batch_size: int = 10) -> Evaluator:
    return Evaluator(
        net or Recorder(),
        IMAGES,
        normalization=NORMALIZATION,
        dtype=torch.float32,
        size=16,
        batch_size=batch_size,
    )


def shown(flip: bool, shift: Shift) -> Tensor:
    """A view of all images, one pixel at a time from its definition: moved, mirrored, normalised; (N, 3, 16, 16)."""

    def inside(position: int) -> int:
        return -position if position < 0 else 30 - position if position > 15 else position

    rows = [inside(y + shift[0]) for y in range(16)]
    columns = [inside(x + shift[1]) for x in range(16)]
    moved = IMAGES[:, rows][:, :, columns]
    if flip:
        moved = moved.flip(2)
    return ((moved / 255 - NORMALIZATION.mean) / NORMALIZATION.std).permute(0, 3, 1, 2)


def by_hand(tta: str, used: int | None = None) -> Tensor:
    """The weighted mean of the first `used` views of all images."""
    net, chosen = Recorder(), list(VIEWS[tta].items())[:used]
    total = sum(net(shown(flip, shift)) * weight for (flip, shift), weight in chosen)
    return total / sum(weight for _, weight in chosen)


def plenty() -> float:
    return float("inf")


@pytest.mark.parametrize("tta", VIEWS)
def test_the_weights_of_the_views_add_up_to_one(tta: str):
    assert sum(VIEWS[tta].values()) == 1.0
    assert views(tta) == len(VIEWS[tta]) == planner.VIEWS[tta]
    assert next(iter(VIEWS[tta])) == (False, (0, 0))


@pytest.mark.parametrize(("flip", "shift"), VIEWS["full"])
def test_a_view_is_the_picture_moved_and_mirrored(flip: bool, shift: Shift):
    net = Recorder()
    logits = evaluator(net).logits(torch.arange(COUNT), flip, shift)
    torch.testing.assert_close(torch.cat(net.batches), shown(flip, shift), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits, Recorder()(shown(flip, shift)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tta", VIEWS)
def test_all_images_get_the_plain_weighted_mean(tta: str):
    scorer = evaluator()
    plain = scorer.plain(plenty)
    torch.testing.assert_close(plain, by_hand("none"), atol=1e-4, rtol=1e-4)
    found = scorer.with_views(plain, tta, 1.0, plenty, 0.0)
    torch.testing.assert_close(found, by_hand(tta), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 10, 37, 500])
def test_the_batch_changes_nothing(batch_size: int):
    net = Recorder()
    torch.testing.assert_close(evaluator(net, batch_size).plain(plenty), evaluator().plain(plenty))
    assert [len(batch) for batch in net.batches[:-1]] == [batch_size] * (len(net.batches) - 1)


def test_only_the_least_certain_get_further_views():
    net = Recorder()
    scorer = evaluator(net)
    plain = scorer.plain(plenty)
    before = plain.clone()
    net.batches.clear()
    found = scorer.with_views(plain, "full", 0.25, plenty, 0.0)
    assert torch.equal(plain, before)
    margins = plain.softmax(1).sort(dim=1).values
    margins = margins[:, -1] - margins[:, -2]
    least = margins.argsort()[:9]  # a quarter of 37
    assert net.images == 5 * 9
    torch.testing.assert_close(found[least], by_hand("full")[least], atol=1e-4, rtol=1e-4)
    rest = torch.ones(COUNT, dtype=torch.bool)
    rest[least] = False
    assert torch.equal(found[rest], plain[rest])


@pytest.mark.parametrize(("tta", "share"), [("none", 1.0), ("full", 0.0), ("full", 0.01)])
def test_where_there_is_nothing_to_add_no_image_is_shown_again(tta: str, share: float):
    net = Recorder()
    scorer = evaluator(net)
    plain = scorer.plain(plenty)
    net.batches.clear()
    assert scorer.with_views(plain, tta, share, plenty, 0.0) is plain
    assert net.batches == []


@pytest.mark.parametrize("fitting", [0, 1, 2, 3, 5])
def test_views_that_do_not_fit_the_time_are_left_out_and_the_others_count_more(fitting: int):
    net = Recorder()
    scorer = evaluator(net)
    plain, everything = scorer.plain(plenty), net.images
    net.batches.clear()

    def time_left() -> float:  # a view takes 1 s, and is begun with a margin
        return fitting + 0.5 - net.images / everything

    found = scorer.with_views(plain, "full", 1.0, time_left, 1.0)
    torch.testing.assert_close(found, by_hand("full", used=1 + fitting), atol=1e-4, rtol=1e-4)


def test_a_view_that_turns_out_too_slow_is_left_out_whole():
    net = Recorder()
    scorer = evaluator(net)
    plain, everything = scorer.plain(plenty), net.images
    net.batches.clear()
    found = scorer.with_views(plain, "full", 1.0, lambda: 2.0 - 1.7 * net.images / everything, 1.0)
    assert 0 < net.images < everything
    assert torch.equal(found, plain)


def test_a_view_of_few_images_costs_little_time():
    net = Recorder()
    scorer = evaluator(net)
    plain = scorer.plain(plenty)
    net.batches.clear()
    scorer.with_views(plain, "full", 0.25, lambda: 0.31, 1.0)
    assert net.images == 5 * 9


def test_plain_evaluation_gives_up_when_time_is_out():
    left = [1.0, 1.0, 0.0]
    net = Recorder()
    with pytest.raises(TimeoutError):
        evaluator(net).plain(lambda: left.pop(0))
    assert net.images == 20


def test_the_net_is_evaluated_without_gradients():
    net = Recorder().train()
    net.weight.requires_grad_(True)
    logits = evaluator(net).plain(plenty)
    assert net.modes == {False}
    assert not logits.requires_grad


def test_accuracy_is_the_share_that_is_right():
    logits = torch.eye(4)[[0, 1, 2, 3, 0]]
    assert accuracy(logits, torch.tensor([0, 1, 2, 0, 3])) == 0.6  # to the bit, for a target may be just that
    assert accuracy(logits, torch.tensor([0, 1, 2, 3, 0])) == 1.0
