"""Mappings in YAML and JSON as every reader here takes them: no key stands twice, and nothing means two things.

YAML is read by the core schema of YAML 1.2, as DVC reads it: `5e-5` is a number, `yes`, `no`, `on`, `off` and `1:30`
are text. Values that readers of YAML disagree about are refused: `010` (8 or 10), `1_000`, `0b1`, dates. Torch-free.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml
from yaml.reader import ReaderError

from stages.errors import InputError

_PLAIN = {
    "null": ("~|null|Null|NULL|", "~nN\0"),
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": ("[-+]?(0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+([eE][-+][0-9]+)?|(0|[1-9][0-9]*)(\.[0-9]*)?([eE][-+]?[0-9]+)?)"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": ("<<", "<"),
}
"""What is no text without quotes, and the characters that it begins with; YAML 1.2.2, section 10.3.2, and merging."""
_DISPUTED = {
    "a date": re.compile(r"\d{4}-\d\d?-\d\d?([Tt \t].*)?"),
    "a number": re.compile(
        r"[-+]?(?=[._]*[0-9]|_)[0-9_]*\.?[0-9_]*([eE][-+]?[0-9_]*)?|[-+]?0[box][0-9a-fA-F_]+|[-+]\.(nan|NaN|NAN)"
    ),
    "a key": re.compile("=|<<"),
}
"""Texts by the core schema that other readers of YAML take for something else."""
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]', re.DOTALL)
_BREAKS = re.compile("[\x85\u2028\u2029]")
_VERSION = re.compile("^%YAML", re.MULTILINE)
_QUOTED = ("'", '"', "|", ">")
"""Styles of scalars that are text whatever they say."""
_INFINITE = re.compile(r"\.([a-zA-Z]+)")
_TAG, _LONGEST = "tag:yaml.org,2002:", 60


class KeyTwice(ValueError):
    """An object of JSON has a key twice."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key!r} stands twice")
        self.key = key


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        raise KeyTwice(next(key for key, _ in pairs if key in seen or seen.add(key)))
    return made


DECODER = json.JSONDecoder(object_pairs_hook=_once)
"""Raises KeyTwice for an object with a key twice; for readers that go on from `raw_decode`."""


def read_json(text: str, where: str, one_line: bool = False) -> Any:
    """What JSON says. Raises InputError, one line that starts with `where`, for another text and for a key twice.

    Of a text that is `one_line` of a file, `where` names that line already.
    """
    try:
        return DECODER.decode(text)
    except KeyTwice as error:
        raise twice(error, text, where) from None
    except json.JSONDecodeError as error:
        place = "" if one_line else f" at line {error.lineno}"
        raise InputError(f"{where}: not valid JSON{place}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON: {error}") from None


def twice(error: KeyTwice, text: str, where: str, before: int = 0) -> InputError:
    """The refusal of an object of `text` that has a key twice; `before` is the number of lines before the text."""
    lines = [line + before for line in _lines_of(error.key, text)]
    places = f", first in line {lines[0]}, then in line {lines[1]}" if len(set(lines)) > 1 else ""
    return InputError(f"{where}: the key {error.key!r} stands twice{places}; keep one of them")


def _lines_of(key: str, text: str) -> list[int]:
    """The lines of the first two places where one object of the valid JSON `text` has `key`; the innermost object."""
    open_objects: list[list[int]] = []
    previous = ""
    for token in _TOKEN.finditer(text):
        sign = token[0]
        if sign == ":" and previous.startswith('"') and json.loads(previous, strict=False) == key:
            found = open_objects[-1]
            found.append(text.count("\n", 0, token.start()) + 1)
            if len(found) == 2:
                return found
        elif sign in "{[":
            open_objects.append([])
        elif sign in "}]":
            open_objects.pop()
        previous = sign
    return []


def read_yaml(text: str, where: str) -> Any:
    """What a document of YAML 1.2 says, in dictionaries with text keys, lists, texts, numbers, booleans and None.

    Raises InputError, one line that starts with `where`, for a text that is no YAML, a key that stands twice, a key
    that is not text, a mapping within itself, and a value that readers of YAML disagree about.
    """
    if found := _VERSION.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise InputError(f"{where}, line {line}: names a version of YAML; leave the line out, YAML 1.2 is read")
    if found := _BREAKS.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise InputError(
            f"{where}, line {line}: the character U+{ord(found[0]):04X} ends a line to some readers of YAML"
        )
    loader = _loader()(text)
    try:
        root = loader.get_single_node()
        for line, fault in _faults(root):
            raise InputError(f"{where}, line {line}: {fault}")
        return None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}" if mark else "somewhere"
        raise InputError(f"{where}: not valid YAML at {place}: {error.problem or error.context}") from None
    except ReaderError as error:
        odd = chr(error.character) if isinstance(error.character, int) else str(error.character)
        line = text.count("\n", 0, max(text.find(odd), 0)) + 1
        raise InputError(f"{where}, line {line}: the character U+{ord(odd[0]):04X} is not allowed in YAML") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid YAML: {' '.join(str(error).split())[:200]}") from None
    finally:
        loader.dispose()


@cache
def _loader() -> Any:
    """PyYAML's parser, in C where it is built so, with the core schema of YAML 1.2 in place of YAML 1.1's types."""

    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    core: Any = type("CoreLoader", (base,), {"yaml_implicit_resolvers": {}})
    for kind, (pattern, first) in _PLAIN.items():
        found = re.compile(f"^(?:{pattern})$")
        core.add_implicit_resolver(_TAG + kind, found, ["" if sign == "\0" else sign for sign in first])
    core.add_constructor(f"{_TAG}int", lambda _, node: int(node.value, 0))
    core.add_constructor(f"{_TAG}float", lambda _, node: float(_INFINITE.sub(r"\1", node.value)))
    return core


def _faults(
    root: yaml.Node | None, above: tuple[int, ...] = (), looked: set[int] | None = None
) -> Iterator[tuple[int, str]]:
    """(line, what is wrong there) of a tree of YAML nodes, from the top; what aliases repeat is looked at once."""
    looked = set() if looked is None else looked
    if root is None or (id(root) in looked and id(root) not in above):
        return
    looked.add(id(root))
    line = root.start_mark.line + 1
    if id(root) in above:
        yield line, "an alias stands for what it is a part of"
    elif isinstance(root, yaml.ScalarNode):
        yield from ((line, fault) for fault in _faults_of_value(root))
    else:
        inner = root.value
        if isinstance(root, yaml.MappingNode):
            yield from _faults_of_keys(root)
            inner = [value for _, value in root.value]
        for node in inner:
            yield from _faults(node, (*above, id(root)), looked)


def _faults_of_keys(node: yaml.MappingNode) -> Iterator[tuple[int, str]]:
    first: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.tag == f"{_TAG}merge":
            continue
        if key.tag != f"{_TAG}str":
            shown = key.value[:_LONGEST] if isinstance(key.value, str) else "(a list or mapping)"
            yield line, f"the key {shown} is not text; put it in quotes"
        elif key.value in first:
            yield line, f"the key {key.value!r} stands twice, first in line {first[key.value]}; keep one of them"
        else:
            first[key.value] = line


def _faults_of_value(node: yaml.ScalarNode) -> Iterator[str]:
    if node.style in _QUOTED or node.tag != f"{_TAG}str":
        return
    for what, pattern in _DISPUTED.items():
        if pattern.fullmatch(node.value):
            advice = "write it as a plain decimal number, or " if what == "a number" else ""
            shown = f"{node.value[:_LONGEST]} is {what} to some readers of YAML and text to others"
            yield f"{shown}; {advice}put it in quotes"
