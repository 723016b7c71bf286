"""Bodies of HCL and JSON files -> variables, targets and groups.

Names are resolved when something needs them, so that their order in files does not matter.
Reference: docs/bake-reference.md of docker/buildx.
"""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from msgspec import Struct, field

from shipline.bake import texts
from shipline.bake.evaluation import Budget, CycleError, EvalContext, evaluate, keyword, names_of
from shipline.bake.functions import Function
from shipline.bake.json_values import encode, parse_json_value
from shipline.bake.syntax import (
    Attribute,
    Block,
    Body,
    Expression,
    FunctionCall,
    Literal,
    Range,
    parse_expression,
    refuse,
)
from shipline.bake.target import ATTRIBUTES, GROUP_ATTRIBUTES, Group, Target, decode
from shipline.bake.type_syntax import parse_type
from shipline.bake.typed import (
    BOOL,
    DYNAMIC,
    NUMBER,
    STRING,
    Type,
    TypeMismatch,
    Value,
    completed,
    convert,
    list_with,
    null,
    number,
    number_text,
    object_with,
    set_with,
    text,
    tuple_of,
)
from shipline.errors import UsageError
from shipline.units import parse_boolean

_MOST_TARGETS = 10_000
_NAME = re.compile(r"[a-zA-Z0-9_-]+\Z")
NAME_HINT = "names have letters, digits, _ and -"


def wrong_name(name: object) -> str:
    """What is wrong about a name."""
    return f'Invalid name {name!r}; only "[a-zA-Z0-9_-]+" are allowed'


_NEWER = ("matrix", "name", "resource", "resources")

Lookup = Callable[[str], str | None]
"""The value that the environment or the command line gives to a variable."""


class VariableInfo(Struct, frozen=True):
    """A variable for `--list`: `value` is None for null."""

    name: str
    description: str
    type: str
    value: str | None


class Definitions(Struct):
    """All targets and groups, by name, in their order."""

    targets: dict[str, Target] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    variables: list[VariableInfo] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def add_definitions(
    config: Definitions, bodies: Sequence[Body], builtin: Mapping[str, str], lookup: Lookup
) -> None:
    """Add what HCL and JSON files define to `config`; later files win. Raises BakeError."""
    _Evaluation(config, bodies, builtin, lookup).add()


class _Instance(Struct):
    """A block with one combination of its matrix; `running` are the attributes being decoded."""

    block: Block
    scope: EvalContext
    name: str
    done: dict[str, Any] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)


class _Evaluation:
    def __init__(
        self,
        config: Definitions,
        bodies: Sequence[Body],
        builtin: Mapping[str, str],
        lookup: Lookup,
    ) -> None:
        self.config = config
        self.lookup = lookup
        blocks = [block for body in bodies for block in body.blocks]
        self.blocks = [one for one in blocks if one.type in ("target", "group")]
        self.variables = {_label(one): one for one in blocks if one.type == "variable"}
        self.functions = {_label(one): one for one in blocks if one.type == "function"}
        self.attributes = self._global_attributes(bodies)
        self.running: set[str] = set()
        self.running_functions: set[str] = set()
        self.known: dict[str, Value] = {name: text(value) for name, value in builtin.items()}
        self.builtin = builtin
        self.own: dict[str, Function] = {}
        self.scope = EvalContext(
            self.known,
            texts.STDLIB,
            Budget(),
            resolve=self.variable,
            resolve_function=self.function,
            resolve_block=self.block_attribute,
        )
        self.instances: dict[str, dict[str, list[_Instance]]] = {"target": {}, "group": {}}

    def _global_attributes(self, bodies: Sequence[Body]) -> dict[str, Attribute]:
        """Those of all files, of which later ones win."""
        return {one.name: one for body in bodies for one in body.attributes}

    def add(self) -> None:
        for name in self.variables:
            if name not in self.builtin:
                self.config.variables.append(self.info(name))
        for name in self.variables:
            if name not in self.builtin:
                self.validate(name)
        for name, block in self.functions.items():
            if name not in texts.STDLIB:
                self.function(name, block.place)
        renamed = self.instantiate()
        for instances in self.in_order():
            self.decode(instances)
        for name in self.attributes:
            if name not in self.builtin:
                self.named(name, self.attributes[name].place)
        for old, names in renamed.items():
            if names != [old]:
                group = self.config.groups.get(old)
                self.config.groups[old] = group or Group(old, names)

    # variables

    def named(self, name: str, place: Range) -> Value:
        try:
            return self.variable(name)
        except (CycleError, LookupError) as error:
            refuse(str(error.args[0]), place)

    def variable(self, name: str) -> Value:
        """The value of a variable or a global attribute. Raises LookupError, CycleError."""
        if name in self.known:
            return self.known[name]
        block, attribute = self.variables.get(name), self.attributes.get(name)
        if block is None and attribute is None:
            raise LookupError(name)
        if name in self.running:
            raise CycleError(f"variable cycle not allowed for {name}")
        self.running.add(name)
        try:
            found = self.value(name, block, attribute)
        finally:
            self.running.discard(name)
        self.known[name] = found
        return found

    def value(self, name: str, block: Block | None, attribute: Attribute | None) -> Value:
        """The default, or what the environment gives, as a value of the type."""
        default = attribute
        if default is None and block is not None:
            default = block.body.get("default")
        wanted = self.type_of(block) if block is not None else None
        value = null(wanted or DYNAMIC) if default is None else evaluate(default.value, self.scope)
        place = default.value.place if default is not None else block.place if block else None
        if wanted is not None:
            try:
                value = convert(value, wanted)
            except TypeMismatch as error:
                refuse(f"the default of {name} is of a wrong type: {error}", place)
        if block is None:
            return value
        return self.overridden(name, value, wanted, default is None, block.place)

    def type_of(self, block: Block) -> Type | None:
        written = block.body.get("type")
        if written is None:
            return None
        return parse_type(_as_syntax(written.value))

    def overridden(
        self, name: str, value: Value, wanted: Type | None, missing: bool, place: Range
    ) -> Value:
        """What the environment or the command line says, else `value`, or an empty text."""
        document = self.lookup(f"{name}_JSON")
        if document is not None and wanted is not None:
            try:
                return convert(completed(parse_json_value(document), wanted), wanted)
            except (ValueError, TypeMismatch) as error:
                refuse(
                    f"failed to convert variable {name} from JSON: {name}_JSON is not"
                    f" {_article(wanted)}: {error}",
                    place,
                )
        given = self.lookup(name) if document is None else document
        if given is None:
            return text("") if missing and wanted is None else value
        type = wanted if wanted is not None else value.type
        try:
            return _parsed(given, type, typed=wanted is not None)
        except _Unsupported as error:
            refuse(f"unsupported type {type.kind} for variable {name}", place, error.args[0])
        except (ValueError, TypeMismatch) as error:
            what = "convert variable {} from CSV" if type.items else f"parse {{}} as {type}"
            told = f"the environment has {given!r}: {error.args[0]}"
            refuse(f"failed to {what.format(name)}: {told}", place)

    def info(self, name: str) -> VariableInfo:
        block = self.variables[name]
        value = self.named(name, block.place)
        description = block.body.get("description")
        told = evaluate(description.value, self.scope).data if description else ""
        wanted = self.type_of(block)
        return VariableInfo(
            name,
            str(told or ""),
            "" if wanted is None else str(wanted),
            None if value.is_null else _listed(value),
        )

    def validate(self, name: str) -> None:
        for rule in self.variables[name].body.blocks:
            if rule.type != "validation":
                refuse(f"a variable has no block {rule.type}", rule.place)
            condition = rule.body.get("condition")
            message = rule.body.get("error_message")
            if condition is None or message is None:
                refuse("a validation has a condition and an error_message", rule.place)
            holds = evaluate(condition.value, self.scope)
            try:
                holds = convert(holds, BOOL)
            except TypeMismatch as error:
                refuse(f"the condition is of a wrong type: {error}", condition.value.place)
            if not holds.data:
                told = evaluate(message.value, self.scope).data
                refuse(f"Validation failed; {name}: {told}", condition.value.place)

    # functions

    def function(self, name: str, place: Range) -> Function:
        """A function of the file. Raises LookupError for another."""
        if name in self.own:
            return self.own[name]
        block = self.functions.get(name)
        if block is None or name in texts.STDLIB:
            raise LookupError(name)
        if name in self.running_functions:
            refuse(f"the function {name} calls itself", place)
        self.running_functions.add(name)
        try:
            self.own[name] = self.user_function(name, block)
        finally:
            self.running_functions.discard(name)
        return self.own[name]

    def user_function(self, name: str, block: Block) -> Function:
        written, result = block.body.get("params"), block.body.get("result")
        if written is None or result is None:
            missing = "params" if written is None else "result"
            place = block.place if written is None else written.place
            refuse(f"empty {missing} not allowed for the function {name}", place)
        listed = names_of(written.value)
        if listed is None:
            refuse("params is a list of names", written.value.place)
        names = [_parameter(one) for one in listed]
        variadic = block.body.get("variadic_params")
        rest = "" if variadic is None else _parameter(variadic.value)
        for call in _calls_of(result.value):
            if call.name not in texts.STDLIB:
                with suppress(LookupError):
                    self.function(call.name, call.place)

        def work(*values: Value) -> Value:
            given = dict(zip(names, values, strict=False))
            if rest:
                given[rest] = tuple_of(values[len(names) :])
            return evaluate(result.value, self.scope.inside(given))

        further = DYNAMIC if rest else None
        return Function(name, (DYNAMIC,) * len(names), further, work)

    # targets and groups

    def in_order(self) -> Iterator[_Instance]:
        made: defaultdict[int, list[_Instance]] = defaultdict(list)
        for named in self.instances.values():
            for one in itertools.chain.from_iterable(named.values()):
                made[id(one.block)].append(one)
        return itertools.chain.from_iterable(made[id(block)] for block in self.blocks)

    def instantiate(self) -> dict[str, list[str]]:
        """Make the instances of all blocks; the names that came out of each label."""
        renamed: dict[str, list[str]] = {}
        count = 0
        for block in self.blocks:
            label = _label(block)
            _check_name(label, block)
            names = []
            for scope in self.scopes(block):
                count += 1
                if count > _MOST_TARGETS:
                    refuse(f"there are more than {_MOST_TARGETS:,} targets", block.place)
                name = self.name_of(block, label, scope)
                if name in names:
                    refuse(
                        f"two combinations of the matrix have the name {name!r}",
                        block.place,
                        "put every value of the matrix into name",
                    )
                names.append(name)
                instances = self.instances[block.type].setdefault(name, [])
                instances.append(_Instance(block, scope, name))
            for name in names:
                known = renamed.setdefault(label, [])
                known += [] if name in known else [name]
        return renamed

    def scopes(self, block: Block) -> Iterator[EvalContext]:
        """A scope for each combination of the matrix; the global one without a matrix."""
        matrix = block.body.get("matrix")
        if matrix is None:
            yield self.scope
            return
        if block.type == "group":
            refuse("matrix is not supported for groups", matrix.place)
        found = evaluate(matrix.value, self.scope)
        if found.is_null or not found.type.is_mapping:
            refuse("matrix must be a map", matrix.value.place)
        columns: dict[str, tuple[Value, ...]] = {}
        for key, values in found.data.items():
            if values.is_null or not values.type.is_sequence:
                refuse(f"matrix values must be a list, {key} is none", matrix.value.place)
            columns[key] = values.data
        if math.prod(map(len, columns.values())) > _MOST_TARGETS:
            refuse(f"the matrix makes more than {_MOST_TARGETS:,} targets", matrix.value.place)
        if block.body.get("name") is None and math.prod(map(len, columns.values())) > 1:
            refuse("a target with a matrix needs a name that tells them apart", block.place)
        names = [*reversed(columns)]  # the last one is the slowest
        for row in itertools.product(*(columns[name] for name in names)):
            yield self.scope.inside(dict(zip(names, row, strict=True)))

    def name_of(self, block: Block, label: str, scope: EvalContext) -> str:
        written = block.body.get("name")
        if written is None:
            return label
        if block.type == "group":
            refuse("name is not supported for groups", written.place)
        if block.body.get("matrix") is None:
            refuse("name requires matrix", written.place)
        found = evaluate(written.value, scope)
        try:
            name = convert(found, STRING).data
        except TypeMismatch as error:
            refuse(f"the name is of a wrong type: {error}", written.value.place)
        if not isinstance(name, str) or not _NAME.match(name):
            refuse(wrong_name(name), written.value.place, NAME_HINT)
        return name

    def decode(self, instance: _Instance) -> None:
        """Evaluate all attributes, and add the target or group to the others."""
        block, name = instance.block, instance.name
        kinds = ATTRIBUTES if block.type == "target" else GROUP_ATTRIBUTES
        for attribute in block.body.attributes:
            if attribute.name in kinds:
                self.attribute(instance, attribute)
            elif block.type == "target" and attribute.name not in _NEWER:
                place = attribute.place.span
                self.config.warnings.append(
                    f"{place}: a target has no attribute {attribute.name}: it is ignored"
                )
        if block.type == "target":
            values = {key: value for key, value in instance.done.items() if value is not None}
            target = Target(name, {key: values[key] for key in ATTRIBUTES if key in values})
            if name in self.config.targets:
                self.config.targets[name].merge(target)
            else:
                self.config.targets[name] = target
            return
        if block.body.get("targets") is None:
            refuse(f"the group {name} has no targets", block.place)
        listed = list(dict.fromkeys(instance.done.get("targets") or ()))
        told = str(instance.done.get("description") or "")
        self.config.groups[name] = Group(name, listed, told)

    def attribute(self, instance: _Instance, attribute: Attribute) -> Any:
        """The decoded value of an attribute."""
        name = attribute.name
        if name in instance.done:
            return instance.done[name]
        if name in instance.running:
            where = f"{instance.block.type}.{instance.name}.{name}"
            refuse(f"{where} is defined by itself", attribute.place)
        instance.running.add(name)
        kinds = ATTRIBUTES if instance.block.type == "target" else GROUP_ATTRIBUTES
        value = evaluate(attribute.value, instance.scope)
        try:
            found = decode(name, value, kinds)
            if found is None and kinds[name].entries:
                raise TypeMismatch("it is null")
        except TypeMismatch as error:
            refuse(f"{name} is of a wrong type: {error}", attribute.value.place)
        except UsageError as error:
            refuse(error.message, attribute.value.place, error.hint)
        instance.running.discard(name)
        instance.done[name] = found
        return found

    def block_attribute(self, type: str, name: str, attribute: str, place: Range) -> Value:
        """`target.name.attribute`, as far as the blocks of this name define it. Raises LookupError
        for other kinds of blocks.
        """
        if type not in self.instances:
            raise LookupError(type)
        instances = self.instances[type].get(name)
        if not instances:
            refuse(f"there is no {type} {name!r}", place)
        if type == "group" or attribute == "name":
            return self.group_attribute(instances, name, attribute, place)
        if attribute not in ATTRIBUTES:
            refuse(f"a target has no attribute {attribute!r}", place)
        merged = Target(name)
        for instance in instances:
            written = instance.block.body.get(attribute)
            value = None if written is None else self.attribute(instance, written)
            if value is not None:
                merged.merge(Target(name, {attribute: value}))
        return merged.to_value(attribute)

    def group_attribute(
        self, instances: Sequence[_Instance], name: str, attribute: str, place: Range
    ) -> Value:
        if attribute == "name":
            return text(name)
        written = instances[-1].block.body.get(attribute)
        if attribute not in GROUP_ATTRIBUTES or written is None:
            refuse(f"the group {name} has no attribute {attribute!r}", place)
        found = self.attribute(instances[-1], written)
        if isinstance(found, list):
            return list_with([*map(text, found)], STRING)
        return text(str(found or ""))


def _label(block: Block) -> str:
    if len(block.labels) != 1:
        refuse(f'a {block.type} has one name: {block.type} "NAME" {{', block.place)
    return block.labels[0]


def _check_name(name: str, block: Block) -> None:
    if not _NAME.match(name):
        refuse(wrong_name(name), block.label_places[0], NAME_HINT)


def _as_syntax(expression: Expression) -> Expression:
    """A type or a name that JSON has as a text is parsed as an expression."""
    if isinstance(expression, Literal) and expression.value.type == STRING:
        return parse_expression(expression.place, expression.value.data)
    return expression


def _parameter(expression: Expression) -> str:
    name = keyword(_as_syntax(expression))
    if not name:
        refuse("a parameter is a name", expression.place)
    return name


def _calls_of(expression: Expression) -> Iterator[FunctionCall]:
    if isinstance(expression, FunctionCall):
        yield expression
    for name in expression.__struct_fields__:
        value = getattr(expression, name)
        for one in value if isinstance(value, tuple) else (value,):
            for part in one if isinstance(one, tuple) else (one,):
                if isinstance(part, Expression):
                    yield from _calls_of(part)


def _listed(value: Value) -> str:
    if value.type == STRING:
        return str(value.data)
    if value.type == NUMBER:
        return number_text(value.data)
    return encode(value)


def _article(type: Type) -> str:
    return f"{'an' if type.kind == 'object' else 'a'} {type}"


class _Unsupported(ValueError):
    """A text cannot be read as this type; the argument is a hint."""


_EXAMPLES = {"tuple": "list(string)", "object": "map(string)", "dynamic": "string"}


def _parsed(given: str, wanted: Type, *, typed: bool) -> Value:
    """A text of the environment as a value. Raises ValueError, TypeMismatch."""
    if wanted == STRING or (wanted.kind == "dynamic" and not typed):
        return text(given)
    if wanted == BOOL:
        if (found := parse_boolean(given)) is None:
            raise ValueError("it is neither true nor false")
        return Value(BOOL, found)
    if wanted == NUMBER:
        return _number(given)
    if not typed or wanted.kind == "dynamic":
        raise _Unsupported(f"give the variable a type, as in type = {_EXAMPLES.get(wanted.kind)}")
    if wanted.kind == "object":
        raise _Unsupported(f"give an {wanted} by the variable with _JSON after its name")
    words = _csv(given)
    if wanted.kind == "map":
        pieces = dict(map(_key_and_value, words))
        return convert(
            object_with({key: _element(one, wanted.item) for key, one in pieces.items()}),
            wanted,
        )
    if wanted.kind == "tuple":
        if len(words) != len(wanted.items):
            raise TypeMismatch(f"the tuple has {len(wanted.items)} elements, not {len(words)}")
        pairs = zip(words, wanted.items, strict=True)
        return tuple_of([_element(word, item) for word, item in pairs])
    make = set_with if wanted.kind == "set" else list_with
    return make([_element(word, wanted.item) for word in words], wanted.item)


def _element(word: str, wanted: Type) -> Value:
    if not wanted.is_primitive:
        raise TypeMismatch(
            f"unsupported type {wanted} of an element: give the variable with _JSON after its name"
        )
    try:
        return _parsed(word, wanted, typed=True)
    except ValueError as error:
        raise ValueError(f"failed to parse element of type {wanted}: {error.args[0]}") from None


def _key_and_value(word: str) -> tuple[str, str]:
    pair = _csv(word, ":")
    if len(pair) != 2:
        raise ValueError(f"expected one k/v pair in {word!r}: write KEY:VALUE,KEY:VALUE")
    return pair[0], pair[1]


def _number(given: str) -> Value:
    try:
        found = float(given)
        if not math.isfinite(found) or "_" in given:
            raise ValueError(given)
    except ValueError:
        raise ValueError("it is not a number") from None
    from decimal import Decimal

    return number(Decimal(repr(found)))


def _csv(given: str, delimiter: str = ",") -> list[str]:
    try:
        rows = [row for row in csv.reader([given], strict=True, delimiter=delimiter) if row]
    except csv.Error as error:
        raise ValueError(f"failed to parse {given!r} as CSV: {error}") from None
    if len(rows) != 1:
        raise ValueError("not one line of comma-separated values")
    return rows[0]
