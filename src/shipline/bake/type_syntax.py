"""Types as they are written: `list(string)`, `object({name = string, count = optional(number)})`.

Reference: github.com/hashicorp/hcl, ext/typeexpr/README.md.
"""

from __future__ import annotations

from shipline.bake.syntax import Expression, FunctionCall, Literal, Object, Tuple, Variable, refuse
from shipline.bake.typed import BOOL, DYNAMIC, NUMBER, STRING, Type, object_of

_NAMED = {"string": STRING, "number": NUMBER, "bool": BOOL, "any": DYNAMIC}
_COLLECTIONS = ("list", "set", "map")


def parse_type(expression: Expression) -> Type:
    """The type that an expression names. Raises BakeError with its place."""
    if isinstance(expression, Variable):
        if expression.name in _NAMED:
            return _NAMED[expression.name]
        if expression.name in (*_COLLECTIONS, "tuple", "object"):
            refuse(
                f"the type {expression.name} needs an argument",
                expression.place,
                f"write {expression.name}(any)" if expression.name in _COLLECTIONS else "",
            )
        refuse(
            f'Invalid type specification; the keyword "{expression.name}" is not a valid type',
            expression.place,
            "types are string, number, bool, any, list(..), set(..), map(..), tuple([..]),"
            " object({..})",
        )
    if not isinstance(expression, FunctionCall) or len(expression.arguments) != 1:
        refuse("this is not a valid type", expression.place)
    argument = expression.arguments[0]
    if expression.name in _COLLECTIONS:
        return Type(expression.name, (parse_type(argument),))
    if expression.name == "tuple" and isinstance(argument, Tuple):
        return Type("tuple", tuple(map(parse_type, argument.items)))
    if expression.name == "object" and isinstance(argument, Object):
        return _object(argument)
    return refuse("this is not a valid type", expression.place)


def _object(written: Object) -> Type:
    attributes: dict[str, Type] = {}
    optional = set()
    for key, value in written.items:
        if not isinstance(key, Literal):
            refuse("the name of an attribute has to be a plain word", key.place)
        name = str(key.value.data)
        if isinstance(value, FunctionCall) and value.name == "optional":
            if len(value.arguments) != 1:
                refuse("optional() takes one argument: a type", value.place)
            optional.add(name)
            value = value.arguments[0]
        attributes[name] = parse_type(value)
    return object_of(attributes, optional)
