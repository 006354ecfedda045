"""Seeds derived by name."""

from speedrun.config import SEED_LIMIT
from speedrun.seeds import derive


def test_a_derived_seed_is_the_same_on_every_machine():
    # The first 8 hexadecimal digits of the SHA-256 of "0/init" and so on: a change of them changes every recorded run.
    assert [derive(0, "init"), derive(0, "order", 3), derive(7)] == [707372002, 1268340819, 2030201243]


def test_other_roots_names_and_epochs_give_other_seeds():
    found = {derive(root, name, epoch) for root in range(20) for name in ("init", "order") for epoch in range(20)}
    assert len(found) == 20 * 2 * 20


def test_names_are_not_glued_together():
    assert derive(1, "2") != derive(12)
    assert derive(1, "23") != derive(12, "3")
    assert derive(1, "order", 1, 2) != derive(1, "order", 12)


def test_seeds_are_in_range_and_fill_it():
    found = [derive(root, "x") for root in range(2000)]
    assert all(0 <= seed < SEED_LIMIT for seed in found)
    assert abs(sum(found) / len(found) / SEED_LIMIT - 0.5) < 0.03
    assert min(found) < 0.01 * SEED_LIMIT
    assert max(found) > 0.99 * SEED_LIMIT
