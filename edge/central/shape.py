"""A JSON Schema, compiled once into functions: a document from outside becomes what the schema names, or is refused.

`compile_schema(schema)` returns a function that takes a parsed JSON value and returns a copy of it with the keys that
the schema knows and no other; keys that it does not know are passed over, however deep they are. So what comes out has
the types, lengths and ranges of the schema, and its depth.

A subset of JSON Schema 2020-12: a keyword that is not known here is an error when it is compiled, so that no line of a
schema is passed over in silence. Stricter than that in two points: an integer is written as one (1.0 is none), and the
pattern of a text matches to its very end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

Checker = Callable[[Any], Any]
Shape = Mapping[str, Any]

#: What a keyword may say beside the rule itself.
_REMARKS = frozenset({"$schema", "$id", "$defs", "title", "description"})


class Misfit(ValueError):
    """A value that departs from its schema: where, and from which keyword. It is not quoted."""

    def __init__(self, keyword: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(keyword)
        self.keyword, self.path = keyword, path

    def prefix(self, key: str | int) -> Misfit:
        """The same fault, seen from one level above."""
        return Misfit(self.keyword, (key, *self.path))

    @property
    def place(self) -> str:
        """Such as `$.status.alerts[3].text`. Keys are those of the schema, or `*` where a site chooses them."""
        return "$" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in self.path)


def compile_schema(schema: Shape) -> Checker:
    """The function that checks a document. Raises KeyError or ValueError for a schema that is not understood."""
    return _compile(schema, schema.get("$defs", {}))


def _compile(shape: Shape, defs: Mapping[str, Shape]) -> Checker:
    rules = {key: value for key, value in shape.items() if key not in _REMARKS}
    if "$ref" in rules:
        return _compile(defs[rules.pop("$ref").removeprefix("#/$defs/")], defs)
    if "anyOf" in rules:
        return partial(_any_of, [_compile(each, defs) for each in rules.pop("anyOf")])
    if "const" in rules or "enum" in rules:
        return partial(_one_of, rules["enum"] if "enum" in rules else [rules["const"]])
    named = rules.pop("type")
    types = [named] if isinstance(named, str) else named
    made = {_TYPES[name]: _MAKERS[name](rules, defs) for name in types}
    if rules:
        raise ValueError(f"not understood: {', '.join(rules)}")
    table = {kind: checker for kinds, checker in made.items() for kind in kinds}
    if "number" in types and int not in table:
        raise ValueError("number")
    return partial(_check_type, table)


def _check_type(table: Mapping[type, Checker], value: Any) -> Any:
    checker = table.get(type(value))
    if checker is None:
        raise Misfit("type")
    return checker(value)


def _any_of(checkers: list[Checker], value: Any) -> Any:
    for checker in checkers:
        try:
            return checker(value)
        except Misfit as error:
            fault = error
    raise fault


def _one_of(allowed: list[Any], value: Any) -> Any:
    if not (value is None or isinstance(value, str)) or value not in allowed:
        raise Misfit("enum")
    return value


# -- one maker for each type -------------------------------------------------------------------------------------------


def _number(rules: dict[str, Any], _defs: Mapping[str, Shape]) -> Checker:
    least, most = rules.pop("minimum", -math.inf), rules.pop("maximum", math.inf)
    above = rules.pop("exclusiveMinimum", -math.inf)

    def check(value: float) -> float:
        if not least <= value <= most:  # NaN is in no range
            raise Misfit("minimum" if value < least else "maximum")
        if value <= above or value in (math.inf, -math.inf):
            raise Misfit("exclusiveMinimum" if value <= above else "type")
        return value

    return check


def _string(rules: dict[str, Any], _defs: Mapping[str, Shape]) -> Checker:
    most = rules.pop("maxLength", math.inf)
    pattern = rules.pop("pattern", None)
    matches = re.compile(pattern.removeprefix("^").removesuffix("$")).fullmatch if pattern else None
    if pattern and not (pattern.startswith("^") and pattern.endswith("$")):
        raise ValueError(f"not anchored: {pattern}")

    def check(value: str) -> str:
        if len(value) > most:
            raise Misfit("maxLength")
        if matches is not None and not matches(value):
            raise Misfit("pattern")
        return value

    return check


def _array(rules: dict[str, Any], defs: Mapping[str, Shape]) -> Checker:
    least, most, each = rules.pop("minItems", 0), rules.pop("maxItems"), _compile(rules.pop("items"), defs)

    def check(value: list[Any]) -> list[Any]:
        if not least <= len(value) <= most:
            raise Misfit("maxItems" if len(value) > most else "minItems")
        made = []
        for index, item in enumerate(value):
            try:
                made.append(each(item))
            except Misfit as error:
                raise error.prefix(index) from None
        return made

    return check


def _object(rules: dict[str, Any], defs: Mapping[str, Shape]) -> Checker:
    required = tuple(rules.pop("required", ()))
    known = {key: _compile(shape, defs) for key, shape in rules.pop("properties", {}).items()}
    most = rules.pop("maxProperties", None)
    name = _compile(rules.pop("propertyNames"), defs) if "propertyNames" in rules else None
    rest = _compile(rules.pop("additionalProperties"), defs) if "additionalProperties" in rules else None
    if rest is not None and (known or name is None or most is None):
        raise ValueError("names that others choose want propertyNames and maxProperties, and no properties beside them")

    def check(value: dict[str, Any]) -> dict[str, Any]:
        for key in required:
            if key not in value:
                raise Misfit("required").prefix(key)
        made = {}
        for key, each in value.items():
            checker = known.get(key)
            if checker is not None:
                try:
                    made[key] = checker(each)
                except Misfit as error:
                    raise error.prefix(key) from None
        return made

    def check_chosen(value: dict[str, Any]) -> dict[str, Any]:
        if len(value) > most:
            raise Misfit("maxProperties")
        made = {}
        for key, each in value.items():
            try:
                made[name(key)] = rest(each)  # type: ignore[misc]
            except Misfit as error:
                raise error.prefix("*") from None
        return made

    return check if rest is None else check_chosen


def _plain(_rules: dict[str, Any], _defs: Mapping[str, Shape]) -> Checker:
    return lambda value: value


_TYPES: Mapping[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}
_MAKERS: Mapping[str, Callable[[dict[str, Any], Mapping[str, Shape]], Checker]] = {
    "integer": _number,
    "number": _number,
    "string": _string,
    "boolean": _plain,
    "null": _plain,
    "array": _array,
    "object": _object,
}
