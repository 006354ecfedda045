"""Imports go one way, tests and benchmarks -> speedrun -> kernels, and never round; what is light stays light."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import ROOT, one_line, run

PACKAGES = ("kernels", "speedrun", "benchmarks", "tests")
ALLOWED = {
    "kernels": {"kernels"},
    "speedrun": {"speedrun", "kernels"},
    "benchmarks": {"benchmarks", "speedrun", "kernels"},
    "tests": set(PACKAGES),
}
STANDARD_LIBRARY_ONLY = (
    "clock",
    "compilation",
    "config",
    "errors",
    "fields",
    "lines",
    "metrics",
    "outcome",
    "pacer",
    "planner",
    "pressure",
    "provenance",
    "record",
    "schedule",
    "schema",
    "scores",
    "screen",
    "seeds",
    "selection",
    "signals",
    "stats",
    "watchdog",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imports(name: str, *, lazy: bool) -> set[str]:
    """Modules that a module imports when it is imported and, if `lazy`, later in its functions; not for type checks."""
    return set(_imports(ast.parse(MODULES[name].read_text(encoding="utf-8")), name, lazy))


def _imports(node: ast.AST, name: str, lazy: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not lazy:
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{name}: a relative import"
            for alias in child.names:
                inner = f"{child.module}.{alias.name}"
                yield inner if inner in MODULES else child.module or ""
        yield from _imports(child, name, lazy)


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Circles of a graph, each by the nodes on it."""
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> None:
        if node in path:
            found.append([*path[path.index(node) :], node])
        elif node not in done:
            for following in sorted(graph[node]):
                visit(following, [*path, node])
            done.add(node)

    for node in graph:
        visit(node, [])
    return found


def test_a_circle_would_be_found():
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [["b", "c", "b"]]
    assert cycles({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []


def test_the_walk_sees_what_is_there():
    assert {"speedrun.loop", "kernels.augment", "benchmarks", "tests.test_imports"} <= set(MODULES)
    assert "speedrun.session" in imports("speedrun.launch", lazy=True)
    assert "speedrun.session" not in imports("speedrun.launch", lazy=False)
    assert "speedrun.machine" not in imports("speedrun.outcome", lazy=True)  # for type checks only
    assert "kernels.augment" in imports("speedrun.stream", lazy=False)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str):
    for name in MODULES:
        if name.partition(".")[0] == package:
            reached = {other.partition(".")[0] for other in imports(name, lazy=True)} & set(PACKAGES)
            assert reached <= ALLOWED[package], name


def test_no_import_goes_round():
    graph = {name: imports(name, lazy=False) & set(MODULES) for name in MODULES}
    assert cycles(graph) == []


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("kernels")))
def test_kernels_know_torch_and_triton_only(name: str):
    others = {other.partition(".")[0] for other in imports(name, lazy=True)} - set(sys.stdlib_module_names)
    assert others <= {"kernels", "torch", "triton"}


@pytest.mark.parametrize("name", STANDARD_LIBRARY_ONLY)
def test_these_import_the_standard_library_alone(name: str):
    """When they are imported, however far: their own imports too."""
    open_, seen = [f"speedrun.{name}"], set()
    while open_:
        module = open_.pop()
        if module in seen:
            continue
        seen.add(module)
        for other in imports(module, lazy=False):
            top = other.partition(".")[0]
            assert top in sys.stdlib_module_names or other in MODULES, f"{module} imports {other}"
            assert top != "kernels", f"{module} imports {other}"
            if other in MODULES:
                open_.append(other)


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import speedrun", set()),
        ("import speedrun; speedrun.Config(seconds=3); speedrun.DataError", set()),
        ("import speedrun.cli, speedrun.clock, speedrun.watchdog", set()),
        ("import speedrun.run", {"numpy"}),
    ],
)
def test_importing_speedrun_loads_nothing_heavy(statement: str, allowed: set[str]):
    code = f"import sys; {statement}; print(*sorted({{'torch', 'numpy', 'rich', 'triton'}} & set(sys.modules)))"
    assert set(one_line(run(["-c", code]).stdout).split()) <= allowed


def test_no_module_hides_a_public_name():
    # Importing speedrun/train.py would put the module in the place of the function `speedrun.train`.
    code = "import speedrun; print(*sorted(speedrun.__all__))"
    assert not {f"speedrun.{name}" for name in one_line(run(["-c", code]).stdout).split()} & set(MODULES)


def test_public_names_are_there_and_others_are_not():
    code = """
import speedrun
for name in speedrun.__all__:
    assert getattr(speedrun, name) is not None, name
assert speedrun._HOMES.keys() == set(speedrun.__all__) - {"__version__"}
try:
    speedrun.no_such_name
except AttributeError as error:
    print(error)
"""
    assert one_line(run(["-c", code]).stdout) == "module 'speedrun' has no attribute 'no_such_name'"


def test_the_loader_says_which_package_hides_ours(tmp_path: Path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import speedrun
for name in ("Stream", "Augmentation", "load"):
    try:
        getattr(speedrun, name)
    except speedrun.SpeedrunError as error:
        print(error)
"""
    lines = run(["-c", code]).stdout.splitlines()
    assert [line.split(",")[0] for line in lines] == ["another package named kernels"] * 3
