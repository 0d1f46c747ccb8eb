"""The rules that keep the packages apart, and files and functions short enough to read."""

from __future__ import annotations

import ast
import graphlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

import noisesmith.pipeline as pipeline
from tests.density import FUNCTIONS, ROOT, length, sources

PRODUCT = [ROOT / "noisesmith", ROOT / "pipeline", ROOT / "actors"]

# What is free to import what: packages and single modules of pipeline, the workshop, actors and the public API.
UNITS = {path.stem for path in (ROOT / "pipeline").glob("[a-z]*.py")}
UNITS |= {path.parent.name for path in (ROOT / "pipeline").glob("*/__init__.py")}
UNITS |= {"training", "actors", "noisesmith"}

# Unit -> what it may import, from the bottom up. Prompts, generators, scorers, optimizers and sinks do not know each
# other: they meet in small typed records.
MAY_IMPORT = {
    "errors": "",
    "records": "",
    "lazily": "",
    "images": "lazily",
    "xmp": "records",
    "duplicates": "",
    "embedded": "",
    "training": "bench embedded load noisesmith scorers",
    "storage": "errors",
    "machine": "errors",
    "noise": "lazily records",
    "models": "embedded errors lazily storage",
    "text": "embedded errors models records",
    "config": "embedded errors storage",
    "schema": "config records",
    "prompts": "config embedded errors records schema storage text",
    "decompose": "config errors models prompts records storage text",
    "generators": "config errors lazily models storage text",
    "scorers": "config embedded errors images lazily models records storage text",
    "optimizers": "config errors lazily models noise text",
    "sinks": "config errors noise records schema storage xmp",
    "search": "config errors generators images lazily noise optimizers records scorers text",
    "lengths": "config errors generators models prompts records scorers text",
    "acceptance": "config errors schema sinks storage",
    "preflight": "acceptance config embedded errors generators lengths machine models optimizers prompts scorers sinks",
    "load": "config errors generators models preflight scorers search",
    "extend": "config errors lengths preflight prompts records sinks storage",
    "replay": "config errors generators images models noise prompts records schema search sinks xmp",
    "telemetry": "sinks storage",
    "report": "acceptance config duplicates embedded errors models records schema sinks storage telemetry",
    "publish": "config errors report sinks",
    "merge": "acceptance config errors report sinks storage telemetry",
    "export": "duplicates errors noise records schema sinks storage",
    "cost": "config errors generators models preflight scorers",
    "speed": "config cost errors generators lazily machine models preflight prompts records search storage",
    "bench": (
        "acceptance config cost errors export generators images load machine models noise preflight prompts records "
        "report schema scorers search sinks storage"
    ),
    "actors": (
        "acceptance bench config errors generators images lazily machine models noise "
        "preflight prompts records report scorers search sinks speed telemetry"
    ),
    "cli": (
        "acceptance actors bench config cost decompose embedded errors export extend lengths merge models "
        "preflight prompts publish records replay report scorers sinks speed storage telemetry training"
    ),
    "api": (
        "acceptance actors config errors lengths load models preflight prompts "
        "records replay report scorers search sinks storage telemetry"
    ),
    "noisesmith": "api config errors records",
}


def unit_of(module: str) -> str | None:
    """The unit that a module belongs to, or that a name is imported from; None where it belongs to none."""
    match module.split("."):
        case ["noisesmith", "pipeline", "embedded", "training", *_]:
            return "training"
        case ["noisesmith", "pipeline", name, *_] if name in UNITS:
            return name
        case ["noisesmith", "actors", *_]:
            return "actors"
        case ["noisesmith"]:
            return "noisesmith"
    return None


def imported_modules(tree: ast.Module) -> Iterator[str]:
    """Every module that a file imports, also inside functions and under ``TYPE_CHECKING``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # `from noisesmith.pipeline import errors` names a module, `from noisesmith.pipeline.errors import X` a name
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows() -> dict[str, dict[str, str]]:
    """Unit -> unit it imports -> one file where it does."""
    found: dict[str, dict[str, str]] = {}
    for path in sources(PRODUCT):
        name = path.relative_to(ROOT).as_posix()
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        unit = unit_of(module if module.startswith("noisesmith") else f"noisesmith.{module}")
        if unit is None:  # pipeline/__init__.py
            continue
        for imported in imported_modules(ast.parse(path.read_text(encoding="utf-8"))):
            target = unit_of(imported)
            if target is not None and target != unit:
                found.setdefault(unit, {})[target] = name
    return found


def test_every_import_between_packages_is_declared() -> None:
    undeclared = []
    for unit, targets in arrows().items():
        for target, file in targets.items():
            if target not in MAY_IMPORT.get(unit, "").split():
                undeclared.append(f"{unit} -> {target} ({file})")
    assert not undeclared


def test_what_is_declared_exists_and_has_no_cycle() -> None:
    graph = {unit: set(targets.split()) for unit, targets in MAY_IMPORT.items()}
    assert set(graph) == UNITS
    for targets in graph.values():
        assert targets <= UNITS
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("statement", ["import {}", "from {} import name", "def f():\n    from {} import name"])
def test_an_import_is_found_wherever_it_stands(statement: str) -> None:
    (module,) = imported_modules(ast.parse(statement.format("noisesmith.pipeline.sinks.writer")))
    assert unit_of(module) == "sinks"


def test_importing_any_part_of_pipeline_imports_no_ray() -> None:
    names = [module.name for module in pkgutil.walk_packages(pipeline.__path__, "noisesmith.pipeline.")]
    assert len(names) > 20
    script = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "assert 'ray' not in sys.modules, 'ray was imported'"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_actors_compute_nothing() -> None:
    """No arithmetic on tensors: the only torch names in actors are those that carry tensors and set threads."""
    allowed = {"tensor", "Tensor", "stack", "set_num_threads"}
    used = {
        name
        for path in (ROOT / "actors").glob("*.py")
        for name in re.findall(r"\btorch\.(\w+)", path.read_text(encoding="utf-8"))
    }
    assert used <= allowed


def test_no_function_is_longer_than_60_lines() -> None:
    too_long = []
    for path in sources(PRODUCT):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, FUNCTIONS) and length(node) > 60:
                too_long.append(f"{path.relative_to(ROOT)}: {node.name} has {length(node)} lines")
    assert too_long == []


def test_no_file_is_longer_than_300_lines() -> None:
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in sources(PRODUCT)}
    assert {path: lines for path, lines in lengths.items() if lines > 300} == {}
