"""Newton-Schulz: the kernels, which take all matrices at once, and their twin, against singular values."""

import numpy as np
import oracle_training as oracles
import pytest
import torch

from kernels import backend, newton_schulz
from kernels.newton_schulz import orthogonalize, orthogonalize_all

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FUSED = pytest.param("fused", marks=pytest.mark.skipif(not backend.ENABLED, reason="no Triton that runs here"))
METHODS = ["torch", FUSED]
# Of three steps: values up to about 1.1, which bfloat16 holds to 2^-9 and sums of products blur further.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 6e-3, torch.bfloat16: 5e-2}
SHAPES = [(1, 8, 8), (4, 24, 96), (4, 96, 24), (2, 1, 30), (3, 17, 5)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mixed() -> list[torch.Tensor]:
    """Wide, tall, square, a single row, exactly one tile, more than one tile each way, one shape twice."""
    shapes = [(8, 20), (70, 130), (20, 8), (64, 64), (1, 30), (130, 66), (8, 20)]
    return [random(*shape, seed=seed) for seed, shape in enumerate(shapes)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "steps"), [(torch.float32, 1), (torch.float32, 3), *((d, 3) for d in TOLERANCE)])
def test_matrices_of_many_shapes_equal_the_oracle(method: str, dtype: torch.dtype, steps: int):
    matrices = mixed()
    results = orthogonalize_all([matrix.to(DEVICE) for matrix in matrices], steps, dtype, method)
    for matrix, result in zip(matrices, results, strict=True):
        assert (result.shape, result.dtype) == (matrix.shape, dtype)
        expected = torch.from_numpy(oracles.newton_schulz(matrix.double().numpy(), steps))
        torch.testing.assert_close(result.cpu().double(), expected, atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_scale_does_not_matter_zeros_stay_and_the_input_is_left_alone(method: str):
    first = random(6, 9).to(DEVICE)
    before = first.clone()
    plain, scaled, zeros = orthogonalize_all([first, 1000 * first, torch.zeros_like(first)], 3, None, method)
    torch.testing.assert_close(plain, scaled, atol=1e-5, rtol=1e-4)
    assert not zeros.any()
    assert torch.equal(first, before)


@pytest.mark.skipif(not backend.ENABLED, reason="no Triton that runs here")
def test_only_one_triangle_of_a_symmetric_product_is_computed():
    plan = newton_schulz._plan(((130, 200), (64, 64)), torch.device(DEVICE))
    assert len(plan.gram) == len(plan.square) == 6 + 1  # of 3 x 3 tiles and of one
    assert len(plan.apply) == len(plan.padding) == 3 * 4 + 1


def test_none_gives_none():
    assert orthogonalize_all([]) == []


@pytest.mark.parametrize(
    ("matrices", "error", "message"),
    [
        ([torch.zeros(2, 2, 2)], ValueError, "must be 2-d"),
        ([torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.float16)], TypeError, "one dtype"),
        ([torch.zeros(2, 2), torch.zeros(2, 2, device="meta")], TypeError, "one device"),
    ],
)
def test_matrices_that_do_not_fit_together_are_refused(matrices, error, message):
    with pytest.raises(error, match=message):
        orthogonalize_all(matrices)


def test_an_unknown_method_and_a_kernel_that_cannot_run_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="method must be one of auto, fused, torch"):
        orthogonalize_all([torch.zeros(2, 2)], method="fast")
    monkeypatch.setattr(backend, "ENABLED", False)
    with pytest.raises(ValueError, match="needs Triton"):
        orthogonalize_all([torch.zeros(2, 2)], method="fused")


@pytest.mark.parametrize("shape", SHAPES)
def test_the_singular_vectors_stay_and_the_values_are_evened_out(shape: tuple[int, int, int]):
    matrices = random(*shape)
    # Five steps: with three, as training takes, small singular values are still on their way up.
    result = orthogonalize(matrices, steps=5)
    u, s, vh = torch.linalg.svd(matrices.double(), full_matrices=False)
    found = u.mT @ result.double() @ vh.mT  # diagonal where the singular vectors are the same
    values = torch.diagonal(found, dim1=1, dim2=2)
    # A singular value far below the largest has not arrived after five steps; random matrices have few of those.
    arrived = values[s > 0.05 * s[:, :1]]
    assert arrived.min() > 0.5
    assert arrived.max() < 1.5
    assert len(arrived) > 0.9 * values.numel()
    assert (found - torch.diag_embed(values)).abs().max() < 1e-4


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [1, 3])
def test_each_step_is_the_quintic_of_the_singular_values(shape: tuple[int, int, int], steps: int):
    matrices = random(*shape)
    expected = np.stack([oracles.newton_schulz(matrix, steps) for matrix in matrices.double().numpy()])
    found = orthogonalize(matrices, steps).double()
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-4, rtol=1e-4)
