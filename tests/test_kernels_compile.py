"""The kernels through Triton's compiler for an H100, which needs no GPU."""

import json
import sys
from pathlib import Path

import pytest
from processes import environment, run

pytest.importorskip("triton")
SHARED = 227 * 1024  # bytes of shared memory that a program of an H100 may have
SPILT = 256  # bytes of a thread that its 255 registers do not hold


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton brings its compiler for Linux alone")
def test_every_kernel_compiles_for_an_h100(tmp_path: Path):
    ended = run(["tests/sm90.py"], env=environment(TRITON_CACHE_DIR=str(tmp_path)), limit=300)
    assert ended.code == 0, ended.stderr
    kernels = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(kernels) >= 27
    assert sum(kernel["kernel"].startswith("augmentation") for kernel in kernels) >= 7
    assert all(kernel["shared"] <= SHARED for kernel in kernels), kernels
    # float32 takes three products for one and is not what these are for: it only has to work.
    assert all(kernel["spilt"] <= SPILT for kernel in kernels if "fp32" not in kernel["kernel"]), kernels
