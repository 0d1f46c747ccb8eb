"""How dense code is: ``python -m tests.density [FOLDER ...]`` prints one row of figures per group of folders.

Without arguments it measures ``pipeline`` and ``actors`` together; give another checkout's folders to compare.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
NOT_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


@dataclass
class Density:
    """Counts over some source files."""

    files: int = 0
    code_lines: int = 0  # with at least one token that is neither comment nor docstring
    comments: int = 0  # alone on their line
    comprehensions: int = 0
    packed_assignments: int = 0  # to several names: a, b = b, c and a, b = function()
    packed_values: int = 0  # those of several values: a, b = b, c
    any_names: int = 0  # imports included
    longest_file: int = 0
    function_lengths: list[int] = field(default_factory=list)

    def add(self, source: str) -> None:
        tree = ast.parse(source)
        self.files += 1
        self.longest_file = max(self.longest_file, len(source.splitlines()))
        self._count_lines(source, tree)
        for node in ast.walk(tree):
            self._count_node(node)

    def _count_lines(self, source: str, tree: ast.Module) -> None:
        code: set[int] = set()
        comments: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            lines = range(token.start[0], token.end[0] + 1)
            if token.type == tokenize.COMMENT:
                comments.update(lines)
            elif token.type not in NOT_CODE:
                code.update(lines)
        for docstring in docstrings(tree):
            code.difference_update(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
        self.code_lines += len(code)
        self.comments += len(comments - code)

    def _count_node(self, node: ast.AST) -> None:
        if isinstance(node, COMPREHENSIONS):
            self.comprehensions += 1
        elif "Any" in (getattr(node, "id", ""), getattr(node, "name", "")):
            self.any_names += 1
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            self.packed_assignments += 1
            self.packed_values += isinstance(node.value, ast.Tuple)
        elif isinstance(node, FUNCTIONS):
            self.function_lengths.append(length(node))

    def per_hundred(self, count: int) -> float:
        return 100 * count / max(self.code_lines, 1)

    def percentile(self, percent: int) -> int:
        ordered = sorted(self.function_lengths) or [0]
        return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


def docstrings(tree: ast.Module) -> Iterator[ast.Expr]:
    """Every string that stands alone as a statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from ``def`` to the end, decorators not counted."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def sources(folders: Iterable[Path]) -> Iterator[Path]:
    """Python files of the folders; links to folders are not followed."""
    for folder in folders:
        yield from sorted(folder.rglob("*.py"))


def measure(folders: Iterable[Path]) -> Density:
    density = Density()
    for path in sources(folders):
        density.add(path.read_text(encoding="utf-8"))
    return density


def main() -> None:
    folders = [Path(argument) for argument in sys.argv[1:]] or [ROOT / "pipeline", ROOT / "actors"]
    found = measure(folders)
    print(f"files                             {found.files}")
    print(f"lines of code                     {found.code_lines}")
    print(f"own-line comments                 {found.comments}")
    print(f"comprehensions per 100 lines      {found.per_hundred(found.comprehensions):.1f}")
    print(f"packed assignments per 100 lines  {found.per_hundred(found.packed_assignments):.1f}")
    print(f"  of these, of several values     {found.per_hundred(found.packed_values):.1f}")
    print(f"Any per 100 lines                 {found.per_hundred(found.any_names):.1f}")
    print(f"function length, 95th percentile  {found.percentile(95)}")
    print(f"longest function                  {found.percentile(100)}")
    print(f"longest file                      {found.longest_file}")


if __name__ == "__main__":
    main()
