"""The expression of ``--where``: read with ``ast`` and compiled to a pyarrow expression. Nothing in it is executed."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.export.columns import Kind, arrow_type, arrow_value, kind_of

LONGEST = 2000  # characters; Arrow evaluates a nested expression on the stack
_ROW = "row"  # the position of a row; columns are named by numbers, so none can have this name
_COMPARE = {
    ast.Lt: pc.Expression.__lt__,
    ast.LtE: pc.Expression.__le__,
    ast.Gt: pc.Expression.__gt__,
    ast.GtE: pc.Expression.__ge__,
    ast.Eq: pc.Expression.__eq__,
    ast.NotEq: pc.Expression.__ne__,
}


@dataclass(frozen=True)
class Condition:
    """A condition on rows; ``columns`` are those that it reads, with the types in which they are compared."""

    text: str
    expression: pc.Expression
    columns: dict[str, pa.DataType]

    def holds(self, rows: Sequence[Mapping[str, Any]]) -> list[bool]:
        """Return for each row whether the condition is true; false where a null or NaN leaves it unknown."""
        arrays = {_ROW: pa.array(range(len(rows)), pa.int64())}
        for number, (name, kind) in enumerate(self.columns.items()):
            values = [arrow_value(row[name], kind) for row in rows]
            arrays[str(number)] = pa.array(values, kind)
        held = set(pa.table(arrays).filter(self.expression)[_ROW].to_pylist())
        return [number in held for number in range(len(rows))]


def read_where(text: str, columns: Mapping[str, str]) -> Condition:
    """Compile an expression such as ``score >= .9 and judge_detector >= .5``.

    It may hold comparisons, ``and``, ``or``, ``not``, ``in``, ``is None``, literals, columns by name and, where a name
    is no Python name, ``col("NAME")``. A comparison with null is neither true nor false, as in SQL.

    Args:
        columns: name → type of the columns of the run and its side tables, as its manifest names them.

    Raises:
        UserError: the expression cannot be read, names a column that is not there, or compares what cannot be compared.
    """
    if len(text) > LONGEST:
        raise UserError(f"--where: has {len(text)} characters, and at most {LONGEST} are read; make it shorter")
    compiler = _Compiler(columns)
    try:
        tree = ast.parse(text.strip(), mode="eval")
        expression = compiler.condition(tree.body)
    except SyntaxError as error:
        raise UserError(f"--where: {text!r} cannot be read ({error.msg}); write it as in score >= 0.9") from None
    except (ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise UserError(f"--where: cannot be read ({reason(error)}); write it as in score >= 0.9") from None
    return Condition(text.strip(), expression, compiler.used)


@dataclass(frozen=True)
class _Value:
    """A column or a literal, with its kind, its type and how a message names it."""

    expression: pc.Expression
    kind: Kind
    type: pa.DataType
    name: str
    literal: bool | float | str | None = None


class _Compiler:
    def __init__(self, columns: Mapping[str, str]) -> None:
        self._columns = columns
        self.used: dict[str, pa.DataType] = {}

    def condition(self, node: ast.expr) -> pc.Expression:
        """Compile what is true or false."""
        match node:
            case ast.BoolOp(op=ast.And()):
                return reduce(pc.Expression.__and__, map(self.condition, node.values))
            case ast.BoolOp(op=ast.Or()):
                return reduce(pc.Expression.__or__, map(self.condition, node.values))
            case ast.UnaryOp(op=ast.Not()):
                return ~self.condition(node.operand)
            case ast.Compare():
                return self._chain(node)
        value = self._value(node)
        if value.kind is not Kind.FLAG:
            raise UserError(
                f"--where: {value.name} holds {value.kind.value} and is no condition; compare it, as in score >= 0.9"
            )
        return value.expression

    def _chain(self, node: ast.Compare) -> pc.Expression:
        """Compile ``a < b`` or ``a < b < c``."""
        parts = []
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            parts.append(self._comparison(left, operator, right))
            left = right
        return reduce(pc.Expression.__and__, parts)

    def _comparison(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> pc.Expression:
        if isinstance(operator, ast.Is | ast.IsNot):
            return self._is_none(left, operator, right)
        if isinstance(operator, ast.In | ast.NotIn):
            found = self._membership(left, right)
            return ~found if isinstance(operator, ast.NotIn) else found
        return self._compared(self._value(left), operator, self._value(right))

    def _compared(self, left: _Value, operator: ast.cmpop, right: _Value) -> pc.Expression:
        if left.kind is not right.kind:
            raise UserError(
                f"--where: {left.name} holds {left.kind.value} and cannot be compared with {right.name}, which holds "
                f"{right.kind.value}; compare values of one kind"
            )
        if left.kind is not Kind.NUMBER:
            return _COMPARE[type(operator)](left.expression, right.expression)
        common = _common_type(left, right)
        return _COMPARE[type(operator)](_cast(left, common), _cast(right, common))

    def _is_none(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> pc.Expression:
        if not (isinstance(right, ast.Constant) and right.value is None):
            raise UserError(f"--where: {ast.unparse(right)!r} cannot follow is; write is None, is not None, or ==")
        value = self._value(left).expression
        return value.is_valid() if isinstance(operator, ast.IsNot) else value.is_null()

    def _membership(self, left: ast.expr, right: ast.expr) -> pc.Expression:
        """Compile ``column in [literals]``, or ``"text" in column``: whether the column's text contains it."""
        value = self._value(left)
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            return self._contains(left, value, self._value(right))
        if not right.elts:
            raise UserError(f"--where: the list after {value.name} in is empty; list at least one value")
        equal = []
        for item in right.elts:
            self._literal(item)  # a list holds literals only
            equal.append(self._compared(value, ast.Eq(), self._value(item)))
        return reduce(pc.Expression.__or__, equal)

    def _contains(self, node: ast.expr, part: _Value, whole: _Value) -> pc.Expression:
        if not (isinstance(node, ast.Constant) and part.kind is Kind.TEXT and whole.kind is Kind.TEXT):
            raise UserError(
                f"--where: {part.name} in {whole.name} is not understood; write a column in a list of literals, as in "
                'topic in ["animals", "tools"], or a text in a column of texts, as in "cat" in prompt'
            )
        return pc.match_substring(whole.expression, node.value)

    def _value(self, node: ast.expr) -> _Value:
        """Compile a column or a literal."""
        match node:
            case ast.Name(id=name):
                return self._column(name)
            case ast.Call(func=ast.Name(id="col"), args=[ast.Constant(value=str(name))], keywords=[]):
                return self._column(name)
            case ast.Constant() | ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant()):
                literal = self._literal(node)
                scalar = pa.scalar(literal)
                return _Value(pc.scalar(scalar), _kind_of_literal(literal), scalar.type, ast.unparse(node), literal)
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr()):
                raise UserError("--where: & and | are not understood; write and, or")
        raise UserError(
            f"--where: {ast.unparse(node)!r} is not understood; use comparisons, and, or, not, in, literals, columns "
            'and col("NAME")'
        )

    def _literal(self, node: ast.expr) -> bool | int | float | str:
        """Return the value of a number, a text, True or False."""
        sign = 1
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            sign = -1 if isinstance(node.op, ast.USub) else 1
            node = node.operand
            if not (isinstance(node, ast.Constant) and _is_number(node.value)):
                raise UserError(f"--where: {ast.unparse(node)} has no sign; write a number after + or -")
        match node:
            case ast.Constant(value=None):
                raise UserError("--where: nothing equals None; write is None or is not None")
            case ast.Constant(value=bool() | str() as value):
                return value
            case ast.Constant(value=int() as value) if value < 2**63:
                return sign * value
            case ast.Constant(value=int() | float() as value):
                return sign * float(value)
            case ast.Constant():
                raise UserError(
                    f"--where: {ast.unparse(node)!r} is not understood; literals are numbers, texts, True and False"
                )
        raise UserError(f"--where: {ast.unparse(node)!r} is no literal; write numbers and texts in a list after in")

    def _column(self, name: str) -> _Value:
        if name not in self._columns:
            raise UserError(unknown_column("--where", name, self._columns))
        type_name = self._columns[name]
        kind = kind_of(type_name)
        if kind is Kind.OTHER:
            raise UserError(
                f"--where: the column {name!r} holds {type_name}, which cannot be compared; use a column of numbers, "
                "texts or booleans"
            )
        type_ = self.used.setdefault(name, arrow_type(type_name))
        number = list(self.used).index(name)
        return _Value(pc.field(str(number)), kind, type_, name)


def unknown_column(option: str, name: str, columns: Iterable[str]) -> str:
    """Return the message for a column that a run does not have, with the closest name that it has."""
    names = list(columns)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? It" if close else "it"
    return f"{option}: the run has no column {name!r}; {hint} has {', '.join(names)}"


def _common_type(left: _Value, right: _Value) -> pa.DataType:
    """Return the type in which two numbers are compared: that of an integer column where the other is no fraction.

    Arrow itself refuses to compare large integers with fractions.
    """
    if left.type == right.type:
        return left.type
    for column, other in ((left, right), (right, left)):
        if column.literal is None and pa.types.is_integer(column.type) and isinstance(other.literal, int):
            try:
                return pa.scalar(other.literal, column.type).type
            except (OverflowError, pa.ArrowInvalid):  # the column cannot hold it
                return pa.float64()
    return pa.float64()


def _cast(value: _Value, kind: pa.DataType) -> pc.Expression:
    return value.expression if value.type == kind else value.expression.cast(kind, safe=False)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind_of_literal(value: bool | float | str) -> Kind:
    if isinstance(value, bool):
        return Kind.FLAG
    return Kind.TEXT if isinstance(value, str) else Kind.NUMBER
