"""Where a record comes from: the moment, the device's name, the software, the commit. Standard library only."""

import os
import re
import subprocess
import sys
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

SOFTWARE = ("python", "torch", "triton", "cuda", "numpy")
SHA = r"[0-9a-f]{40}([0-9a-f]{24})?"  # SHA-1 or SHA-256
_GIT_SECONDS = 0.5  # it takes 3 ms; a sick disk must not hold up a run


def utc_now(offset_seconds: float = 0.0) -> str:
    """This moment, or one `offset_seconds` later, as the field `started` has it."""
    moment = datetime.now(timezone.utc) + timedelta(seconds=offset_seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def device_slug(name: str) -> str:
    """A device's name as a file name: `NVIDIA H200` gives `nvidia-h200`."""
    plain = re.sub(r"\((r|tm|c)\)|[®™©]", " ", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:64].rstrip("-") or "unknown"


def versions() -> dict[str, str | None]:
    """Versions of python, torch, triton, cuda and numpy; null for what is absent. Imports none of them.

    CUDA's is the one torch was built for, known only once torch is loaded.
    """
    found: dict[str, str | None] = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("torch", "triton", "numpy"):
        found[name] = str(getattr(sys.modules.get(name), "__version__", None) or _installed_version(name) or "") or None
    found["cuda"] = getattr(getattr(sys.modules.get("torch"), "version", None), "cuda", None)
    return {name: found[name] for name in SOFTWARE}


def _installed_version(name: str) -> str | None:
    from importlib import metadata

    with suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return None


# What the state of the code does not depend on: appended results and documents.
_NO_CODE = (":(exclude)benchmarks/results", ":(exclude)*.md")


def git_state() -> dict[str, Any] | None:
    """The commit that last changed the code of the checkout that this package lies in, and whether it was changed
    since; None elsewhere.

    Results and documents that were added, committed or not, leave both as they were, so that runs before and after are
    of one code; so do new files outside its packages. Never raises.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():  # installed: a repository further up would be somebody else's
        return None
    try:
        sha = _git(root, "log", "-1", "--format=%H", "--", ".", *_NO_CODE).strip()
        lines = _git(root, "status", "--porcelain=v2", "--", ".", *_NO_CODE).splitlines()
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    code = ("? speedrun/", "? kernels/", "? benchmarks/")
    dirty = any(line.startswith(("1 ", "2 ", "u ", *code)) for line in lines)
    return {"sha": sha, "dirty": dirty} if re.fullmatch(SHA, sha) else None


def _git(root: Path, *words: str) -> str:
    """What git says. Raises where it is missing, fails or hangs."""
    command = ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-C", str(root), *words]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    variables["GIT_OPTIONAL_LOCKS"] = "0"
    run = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True)
    return run.stdout
