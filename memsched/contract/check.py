"""Does a source tree of torch have what the table says?  Read with `ast`: nothing is imported.

    faults_of(CONTRACT, read)        read("torch/_inductor/memory.py") is the text of the file, None if there is none
    ["torch/_inductor/memory.py: prepare_planning_info takes no 'graph_outputs' (planning)", ...]

A class has a field if it, or a class of the same file that it derives from, annotates it, assigns it, sets it on
`self`, or defines a function of that name.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator

from memsched.contract.table import Needs

__all__ = ["faults_of"]

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


def faults_of(contract: Iterable[Needs], read: Callable[[str], str | None]) -> list[str]:
    """What is missing, one line each, in the order of the table."""
    files: dict[str, dict[str, Definition] | None] = {}
    faults: list[str] = []
    for needs in contract:
        if needs.path not in files:
            text = read(needs.path)
            files[needs.path] = None if text is None else dict(_definitions(ast.parse(text)))
        known = files[needs.path]
        missing = ["there is no such file"] if known is None else list(_missing(needs, known))
        faults += [f"{needs.path}: {what} ({needs.feature})" for what in missing]
    return faults


def _definitions(tree: ast.Module) -> Iterator[tuple[str, Definition]]:
    """What the file defines at its top level, also inside of an `if` or a `try`; methods as `Class.method`."""
    waiting: list[ast.stmt] = list(tree.body)
    for node in waiting:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name, node
            case ast.ClassDef():
                yield node.name, node
                for part in node.body:
                    if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
                        yield f"{node.name}.{part.name}", part
            case ast.Assign() | ast.AnnAssign():
                for target in _targets(node):
                    if isinstance(target, ast.Name):
                        yield target.id, node
            case ast.If() | ast.Try():
                waiting += [*node.body, *node.orelse, *getattr(node, "finalbody", ())]
            case _:
                pass


def _missing(needs: Needs, known: dict[str, Definition]) -> Iterator[str]:
    names = (needs.name, *needs.alternatives)
    found = next((known[name] for name in names if name in known), None)
    if found is None:
        yield f"{' or '.join(names)} is not defined"
    elif isinstance(found, (ast.FunctionDef, ast.AsyncFunctionDef)):
        has = {argument.arg for argument in _arguments(found)}
        takes_any = found.args.kwarg is not None
        yield from (f"{needs.name} takes no {name!r}" for name in needs.parameters if not takes_any and name not in has)
    elif isinstance(found, ast.ClassDef):
        fields = _fields(found, known)
        yield from (f"{needs.name} has no {name!r}" for name in needs.fields if name not in fields)


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    arguments = function.args
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


def _fields(found: ast.ClassDef, known: dict[str, Definition]) -> set[str]:
    fields: set[str] = set()
    waiting = [found]
    seen = set()
    while waiting:
        node = waiting.pop()
        seen.add(node.name)
        fields |= set(_own_fields(node))
        bases = [known.get(base.id) for base in node.bases if isinstance(base, ast.Name)]
        waiting += [base for base in bases if isinstance(base, ast.ClassDef) and base.name not in seen]
    return fields


def _own_fields(node: ast.ClassDef) -> Iterator[str]:
    for part in ast.walk(node):
        match part:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield part.name
            case ast.Assign() | ast.AnnAssign():
                for target in _targets(part):
                    if isinstance(target, ast.Name):
                        yield target.id
                    elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                        yield target.attr
            case _:
                pass


def _targets(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
