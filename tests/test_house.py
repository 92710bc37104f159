"""Who may import whom: the layout's rules, held against every import in the code, those inside functions too."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("lare", "lare_eval", "analysis", "benchmarks")
GROUND = ("commands", "errors", "files", "images", "allocator", "intervals", "progress", "registry", "window_modes")
"""Modules of `lare` that any room may use; they use none but each other."""
_GENERAL = ("model", "backbones", "losses", "methods", "data", "training", "cost", "loading")
ROOMS: dict[str, tuple[str, ...]] = {
    "model": (),
    "trace": (),
    "backbones": ("model",),
    "data": ("model", "backbones"),
    "losses": ("model",),
    "loading": ("model", "checkpoints"),
    "interventions": ("trace",),
    "reasoners": ("model", "loading", "interventions"),
    "methods": ("model", "backbones", "losses", "data", "trace", "loading", "interventions", "reasoners"),
    "training": ("model", "backbones", "losses", "methods", "data", "loading"),
    "cost": ("model", "backbones", "losses", "methods", "data", "training"),
    "halting": ("model", "methods", "data", "training", "loading"),
    "embedded": (*_GENERAL, "trace", "checkpoints", "halting"),
    "experiments": (*_GENERAL, "embedded", "trace", "checkpoints"),
}
"""What each room of `lare` may import beside itself and the ground."""


def modules() -> dict[str, Path]:
    """Every module by its dotted name; the thin scripts of `analysis`, whose packages bear the same names, left out."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if not path.with_suffix("").is_dir():
                found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """Modules of this project that a file names in an import, for types only too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in full if name != "lare.__version__"]
        else:
            continue
        yield from (name for name in names if name in MODULES)


ARROWS = {(name, target) for name, path in MODULES.items() for target in imports(path) if target != name}


def room(module: str) -> str:
    """`lare.model.loop` -> `model`; `lare` itself and what is no room -> its own name."""
    return module.split(".")[1] if module.startswith("lare.") else module.split(".")[0]


def between(source: str, target: str) -> list[str]:
    """Arrows from a package to another."""
    arrows = [(a, b) for a, b in ARROWS if a.split(".")[0] == source and b.split(".")[0] == target]
    return sorted(f"{a} -> {b}" for a, b in arrows)


@pytest.mark.parametrize("name", sorted(ROOMS))
def test_a_room_imports_only_what_it_may(name: str) -> None:
    allowed = {name, *ROOMS[name], *GROUND}
    arrows = [(a, b) for a, b in ARROWS if a.startswith("lare.") and room(a) == name]
    wrong = [f"{a} -> {b}" for a, b in arrows if room(b) not in allowed]
    assert not sorted(wrong)


@pytest.mark.parametrize(
    ("source", "target"),
    [("lare", "lare_eval"), ("lare", "analysis"), ("lare_eval", "analysis"), ("lare", "benchmarks"),
     ("analysis", "benchmarks"), ("lare_eval", "benchmarks")],
)  # fmt: skip
def test_packages_import_one_way(source: str, target: str) -> None:
    assert not between(source, target)


@pytest.mark.parametrize("name", GROUND)
def test_the_ground_imports_nothing_above_it(name: str) -> None:
    assert {b for a, b in ARROWS if a == f"lare.{name}"} <= {f"lare.{one}" for one in GROUND}


def test_no_files_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for source, target in ARROWS:
        # A package's face hands on names of its own files, which is no circle.
        if not source.startswith(target + ".") and MODULES[source].name != "__init__.py":
            graph[source].add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_rules_are_checked_at_all() -> None:
    """The reader of imports sees what is there: a known arrow, inside a function and under TYPE_CHECKING too."""
    assert ("lare.model.generation", "lare.model.loop") in ARROWS
    assert len(ARROWS) > 500


# Names of methods and losses ---------------------------------------------------------------------------------------


def named(path: Path, names: set[str]) -> Iterator[int]:
    """Lines where code branches on one of these names: compares with it, or looks for it in a literal."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare):
            texts = {one.value for part in ast.walk(node) if isinstance(one := part, ast.Constant)}
        elif isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant):
            texts = {node.value.value}
        else:
            continue
        if texts & names:
            yield node.lineno


@pytest.mark.parametrize("place", ["lare/training", "lare/cost", "lare/data", "lare/trace", "lare_eval", "analysis"])
def test_no_branch_on_a_methods_name(place: str) -> None:
    """But for the one whose name is a default value."""
    from lare.methods import method_names

    names = set(method_names()) - {"lare"}
    found = [f"{path}:{line}" for path in sorted((ROOT / place).rglob("*.py")) for line in named(path, names)]
    assert not found


def test_the_losses_are_listed_once() -> None:
    """A literal list, tuple, set or dictionary that names three of them or more stands in the registry alone."""
    from lare.registry import LOSSES

    found = []
    for name, path in MODULES.items():
        if name.split(".")[0] in ("lare", "lare_eval", "analysis"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                parts = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
                texts = {one.value for one in parts if isinstance(one, ast.Constant)}
                if len(texts & set(LOSSES.own)) > 2:
                    found.append(name)
    assert found == ["lare.registry"]
