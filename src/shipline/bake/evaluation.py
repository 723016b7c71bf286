"""Expressions -> values, in a scope of variables and functions.

Reference: github.com/hashicorp/hcl, hclsyntax/spec.md. What is evaluated is bounded: no definition
keeps a build from beginning for ever.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from shipline.bake import typed
from shipline.bake.syntax import (
    AttributeAccess,
    BakeError,
    Binary,
    Conditional,
    Expression,
    For,
    FunctionCall,
    Joined,
    Literal,
    Object,
    Range,
    Splat,
    Subscript,
    Template,
    Tuple,
    Unary,
    Variable,
    Wrapped,
    refuse,
)
from shipline.bake.typed import (
    BOOL,
    NUMBER,
    NUMBERS,
    STRING,
    TypeMismatch,
    Value,
    boolean,
    convert,
    number,
    text,
)
from shipline.errors import closest

if TYPE_CHECKING:
    from shipline.bake.functions import Function

_MOST_STEPS = 2_000_000
_MOST_TEXT = 64 << 20  # characters that all evaluations make
_MOST_SECONDS = 60


class Budget(Struct):
    """What the evaluations of one run may still use."""

    steps: int = _MOST_STEPS
    characters: int = _MOST_TEXT
    started: float = field(default_factory=time.monotonic)

    @property
    def is_spent(self) -> bool:
        return self.steps < 0 or self.characters < 0

    def spend_time(self, place: Range) -> None:
        if time.monotonic() - self.started > _MOST_SECONDS:
            self.steps = -1
            self.spend(place)

    def spend(self, place: Range, characters: int = 0) -> None:
        self.steps -= 1
        self.characters -= characters
        if self.is_spent:
            refuse("this takes too long to evaluate: it does not end, or is huge", place)


class EvalContext(Struct, frozen=True):
    """What names mean. `resolve` gives a function or a variable that is not yet known; it raises
    LookupError for one that does not exist.
    """

    variables: Mapping[str, Value]
    functions: Mapping[str, Function]
    budget: Budget
    outer: EvalContext | None = None
    resolve: Callable[[str], Value] | None = None
    resolve_function: Callable[[str, Range], Function] | None = None
    resolve_block: Callable[[str, str, str, Range], Value] | None = None

    def inside(self, variables: Mapping[str, Value]) -> EvalContext:
        return EvalContext(variables, {}, self.budget, self)

    def chain(self) -> Iterator[EvalContext]:
        scope: EvalContext | None = self
        while scope is not None:
            yield scope
            scope = scope.outer


def evaluate(expression: Expression, scope: EvalContext) -> Value:
    """The value of an expression. Raises BakeError with its place."""
    scope.budget.spend(expression.place)
    return _EVALUATORS[type(expression)](expression, scope)


def evaluate_as(expression: Expression, wanted: typed.Type, scope: EvalContext) -> Value:
    """The value, converted. Raises BakeError with its place."""
    return _converted(evaluate(expression, scope), wanted, expression.place)


def _converted(value: Value, wanted: typed.Type, place: Range) -> Value:
    try:
        return convert(value, wanted)
    except TypeMismatch as error:
        refuse(f"this is of a wrong type: {error}", place)


def _literal(expression: Literal, scope: EvalContext) -> Value:
    return expression.value


def _wrapped(expression: Wrapped, scope: EvalContext) -> Value:
    return evaluate(expression.inner, scope)


def _template(expression: Template, scope: EvalContext) -> Value:
    found = "".join(_part(part, scope) for part in expression.parts)
    scope.budget.spend(expression.place, len(found))
    return text(found)


def _part(part: Expression, scope: EvalContext) -> str:
    value = evaluate(part, scope)
    if value.is_null:
        refuse("the value is null, which cannot be part of a string", part.place)
    try:
        return str(convert(value, STRING).data)
    except TypeMismatch:
        refuse(
            f"a {value.type} cannot be part of a string",
            part.place,
            "join() makes a string of a list, jsonencode() of any value",
        )


def _joined(expression: Joined, scope: EvalContext) -> Value:
    found = evaluate(expression.inner, scope)
    return text("".join(str(one.data) for one in found.elements))


def _variable(expression: Variable, scope: EvalContext) -> Value:
    name = expression.name
    for one in scope.chain():
        if name in one.variables:
            return one.variables[name]
        if one.resolve is not None:
            try:
                return one.resolve(name)
            except LookupError:
                pass
            except CycleError as error:
                refuse(str(error), expression.place)
    known = [known for one in scope.chain() for known in one.variables]
    meant = closest(name, known)
    return refuse(
        f"there is no variable {name!r}",
        expression.place,
        f"did you mean {meant}?" if meant else f'declare it: variable "{name}" {{}}',
    )


class CycleError(Exception):
    """Something is defined by itself."""


def _attribute(expression: AttributeAccess, scope: EvalContext) -> Value:
    if (block := _block_attribute(expression, scope)) is not None:
        return block
    found = evaluate(expression.object, scope)
    name = expression.name
    if found.is_null:
        refuse(f"it has no attribute {name!r}: it is null", expression.place)
    if not found.type.is_mapping:
        refuse(f"a {found.type} has no attributes, so no {name!r}", expression.place)
    if name not in found.data:
        refuse(f"there is no attribute {name!r}", expression.place, _among(name, found))
    return _item(found, name)


def _block_attribute(expression: AttributeAccess, scope: EvalContext) -> Value | None:
    """`target.name.attribute`, of which only this attribute is evaluated; None for others."""
    match expression.object:
        case AttributeAccess(object=Variable(name=type), name=label):
            pass
        case Subscript(collection=Variable(name=type), key=Literal(value=Value(data=str(label)))):
            pass
        case _:
            return None
    for one in scope.chain():
        if type in one.variables:
            return None
        if one.resolve_block is not None:
            try:
                return one.resolve_block(type, label, expression.name, expression.place)
            except LookupError:
                pass
    return None


def _item(found: Value, key: str) -> Value:
    value: Value = found.data[key]
    return value


def _among(name: str, found: Value) -> str:
    meant = closest(name, found.data)
    return f"did you mean {meant}?" if meant else ""


def _index(expression: Subscript, scope: EvalContext) -> Value:
    collection = evaluate(expression.collection, scope)
    key = evaluate(expression.key, scope)
    try:
        return index(collection, key)
    except (TypeMismatch, LookupError) as error:
        refuse(str(error.args[0]), expression.place)


def index(collection: Value, key: Value) -> Value:
    """`collection[key]`. Raises LookupError, TypeMismatch."""
    if collection.is_null:
        raise LookupError("null has no elements")
    if key.is_null:
        raise LookupError("the index is null")
    if collection.type.kind in ("list", "tuple"):
        at = convert(key, NUMBER).data
        if not isinstance(at, int) or not 0 <= at < len(collection.data):
            raise LookupError(f"there is no element {key.data}: it has {len(collection.data)}")
        element: Value = collection.data[at]
        return element
    if collection.type.is_mapping:
        name = convert(key, STRING).data
        if name not in collection.data:
            raise LookupError(f"there is no element {name!r}")
        return _item(collection, name)
    raise LookupError(f"a {collection.type} has no elements that an index finds")


def _splat(expression: Splat, scope: EvalContext) -> Value:
    source = evaluate(expression.source, scope)
    if source.is_null:
        return typed.tuple_of([])
    elements = source.elements if source.type.is_sequence else (source,)
    found = [evaluate(expression.each, scope.inside({expression.slot: one})) for one in elements]
    if source.type.kind in ("list", "set") and found:
        return typed.list_with(found, found[0].type)
    return typed.tuple_of(found)


def _call(expression: FunctionCall, scope: EvalContext) -> Value:
    function = _function(expression, scope)
    if function.lazy is not None:
        return function.lazy(expression, scope)
    arguments = [evaluate(one, scope) for one in expression.arguments]
    if expression.expanded:
        last = arguments.pop()
        if last.is_null or not last.type.is_sequence:
            refuse("what ... expands has to be a list", expression.arguments[-1].place)
        arguments.extend(last.data)
    try:
        found = function.call(arguments)
    except BakeError:
        raise
    except (TypeMismatch, LookupError, ValueError, ArithmeticError) as error:
        reason = str(error.args[0]) if error.args else type(error).__name__
        if isinstance(error, ArithmeticError):
            reason = "the result is not a number, or too big"
        refuse(f"{expression.name}(): {reason}", expression.place)
    scope.budget.spend_time(expression.place)
    size = len(found.data) if isinstance(found.data, str | tuple | dict) else 0
    scope.budget.spend(expression.place, size)
    return found


def _function(expression: FunctionCall, scope: EvalContext) -> Function:
    name = expression.name
    for one in scope.chain():
        if name in one.functions:
            return one.functions[name]
        if one.resolve_function is not None:
            try:
                return one.resolve_function(name, expression.place)
            except LookupError:
                pass
    known = [known for one in scope.chain() for known in one.functions]
    meant = closest(name, known)
    hint = f"did you mean {meant}()?" if meant else ""
    return refuse(f"there is no function {name}()", expression.place, hint)


_ARITHMETIC: dict[str, Callable[[typed.Number, typed.Number], typed.Number]] = {
    "+": lambda a, b: add(a, b),
    "-": lambda a, b: add(a, -b),
    "*": lambda a, b: multiply(a, b),
    "/": lambda a, b: divide(a, b),
    "%": lambda a, b: modulo(a, b),
}
_COMPARISONS: dict[str, Callable[[typed.Number, typed.Number], bool]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


def add(left: typed.Number, right: typed.Number) -> typed.Number:
    if isinstance(left, int) and isinstance(right, int):
        return left + right
    return typed.whole(NUMBERS.add(left, right))


def multiply(left: typed.Number, right: typed.Number) -> typed.Number:
    return typed.whole(NUMBERS.multiply(left, right))


def divide(left: typed.Number, right: typed.Number) -> typed.Number:
    """Raises ValueError for a division by zero."""
    if not right:
        raise ValueError("division by zero")
    return typed.whole(NUMBERS.divide(left, right))


def modulo(left: typed.Number, right: typed.Number) -> typed.Number:
    """The remainder, with the sign of `left`. Raises ValueError for zero."""
    if not right:
        raise ValueError("division by zero")
    return typed.whole(NUMBERS.remainder(left, right))


def _binary(expression: Binary, scope: EvalContext) -> Value:
    """Operators of one level are in each other on the left: a chain of any length adds no depth."""
    chain = [expression]
    while isinstance(chain[-1].left, Binary):
        chain.append(chain[-1].left)
    value = evaluate(chain[-1].left, scope)
    for one in reversed(chain):
        scope.budget.spend(one.place)
        value = _operation(one, value, scope)
    return value


def _operation(expression: Binary, value: Value, scope: EvalContext) -> Value:
    """The value of an expression with an operator, whose left side is `value`."""
    sign = expression.operator
    if sign in ("==", "!="):
        same = typed.equal(value, evaluate(expression.right, scope))
        return boolean(same == (sign == "=="))
    wanted = BOOL if sign in ("&&", "||") else NUMBER
    left = _as_operand(expression.left, value, wanted)
    if sign in ("&&", "||") and left.data == (sign == "||"):
        return left
    right = _as_operand(expression.right, evaluate(expression.right, scope), wanted)
    if sign in ("&&", "||"):
        return right
    if sign in _COMPARISONS:
        return boolean(_COMPARISONS[sign](left.data, right.data))
    try:
        return number(_ARITHMETIC[sign](left.data, right.data))
    except ValueError as error:
        refuse(str(error), expression.place)
    except (ArithmeticError, TypeMismatch):
        refuse("the result is not a number, or too big", expression.place)


def _as_operand(expression: Expression, value: Value, wanted: typed.Type) -> Value:
    found = _converted(value, wanted, expression.place)
    if found.is_null:
        refuse("null is not an operand", expression.place)
    return found


def _unary(expression: Unary, scope: EvalContext) -> Value:
    value = evaluate(expression.operand, scope)
    if expression.operator == "!":
        return boolean(not _as_operand(expression.operand, value, BOOL).data)
    return number(-_as_operand(expression.operand, value, NUMBER).data)


def _conditional(expression: Conditional, scope: EvalContext) -> Value:
    """Both sides are evaluated, since the result is of a type that both have; the error of the side
    that is not taken does not count.
    """
    condition = evaluate_as(expression.condition, BOOL, scope)
    if condition.is_null:
        refuse("the condition is null", expression.condition.place)
    taken, other = expression.yes, expression.no
    if not condition.data:
        taken, other = other, taken
    found = evaluate(taken, scope)
    try:
        rest = evaluate(other, scope)
    except BakeError:
        return found
    common = typed.unify([found.type, rest.type])
    if common is None:
        refuse(
            f"both results of a condition have to be of one type: {found.type}, {rest.type}",
            expression.place,
        )
    return convert(found, common)


def _tuple(expression: Tuple, scope: EvalContext) -> Value:
    return typed.tuple_of([evaluate(one, scope) for one in expression.items])


def _object(expression: Object, scope: EvalContext) -> Value:
    found = {}
    for key, value in expression.items:
        found[_key(key, scope)] = evaluate(value, scope)
    return typed.object_with(found)


def _key(expression: Expression, scope: EvalContext) -> str:
    key = evaluate_as(expression, STRING, scope)
    if key.is_null:
        refuse("the key is null", expression.place)
    return str(key.data)


def _for(expression: For, scope: EvalContext) -> Value:
    source = evaluate(expression.collection, scope)
    if source.is_null or not (source.type.is_sequence or source.type.is_mapping):
        what = "null" if source.is_null else f"a {source.type}"
        refuse(f"{what} has no elements to iterate over", expression.collection.place)
    values: list[Value] = []
    named: dict[str, list[Value]] = {}
    for key, item in source.pairs():
        inner = scope.inside({expression.key: key, expression.item: item})
        if expression.condition is not None:
            kept = evaluate_as(expression.condition, BOOL, inner)
            if kept.is_null:
                refuse("the condition is null", expression.condition.place)
            if not kept.data:
                continue
        if expression.new_key is None:
            values.append(evaluate(expression.result, inner))
            continue
        name = _key(expression.new_key, inner)
        if name in named and not expression.grouped:
            refuse(
                f"two items have the key {name!r}",
                expression.new_key.place,
                "write ... after the value to collect the values of equal keys",
            )
        named.setdefault(name, []).append(evaluate(expression.result, inner))
    if expression.new_key is None:
        return typed.tuple_of(values)
    if expression.grouped:
        return typed.object_with({name: typed.tuple_of(found) for name, found in named.items()})
    return typed.object_with({name: found[0] for name, found in named.items()})


_EVALUATORS: dict[type[Expression], Callable[[Any, EvalContext], Value]] = {
    Literal: _literal,
    Wrapped: _wrapped,
    Template: _template,
    Joined: _joined,
    Variable: _variable,
    AttributeAccess: _attribute,
    Subscript: _index,
    Splat: _splat,
    FunctionCall: _call,
    Unary: _unary,
    Binary: _binary,
    Conditional: _conditional,
    Tuple: _tuple,
    Object: _object,
    For: _for,
}


def keyword(expression: Expression) -> str:
    """The name that an expression consists of; empty for another one."""
    return expression.name if isinstance(expression, Variable) else ""


def names_of(expression: Expression) -> Sequence[Expression] | None:
    """The items of a list that is written out; None for another expression."""
    return expression.items if isinstance(expression, Tuple) else None
