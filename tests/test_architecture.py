"""
The shape of the package, read from its source.

Which module may import which, where a framework may be named, who may print and who may catch
everything: the rules are the tables below, everything else is reading.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Iterator, NamedTuple

import tracelet

ROOT = Path(tracelet.__file__).parent

FACTS = ("records", "errors", "findings", "naming", "_redaction", "_installed", "_imports")
GROUND = ("tfevents", "spool", "_guard", "_ledger", "_patching", "_process")
#: What every backend may use of what stands beside it: the contract, and what several need.
BESIDE = (
    *("backends.base", "backends.bounded", "backends.owed", "backends.replies"),
    "backends.sources",
)

#: What a part of the package may import from the rest of it. Every part may import itself. The
#: longest prefix of a module's name is its part; a name in a value stands for all below it.
MAY_IMPORT = {
    # 0: facts
    "records": FACTS,
    "errors": FACTS,
    "findings": FACTS,
    "naming": FACTS,
    "_redaction": (),
    "_installed": (),
    "_imports": (),
    # 1: the ground
    "_guard": FACTS,
    "_ledger": (*FACTS, "_guard"),
    "_patching": ("_guard",),
    "_process": (),
    "tfevents": (*FACTS, "_guard", "_ledger"),
    "spool": (*FACTS, "_guard", "_ledger"),
    "backends.base": FACTS,
    "backends.bounded": (*FACTS, "_guard"),
    "backends.owed": (),
    "backends.replies": FACTS,
    "backends.sources": FACTS,
    # 2: what stands on it, side by side
    "capture": (*FACTS, "_guard", "_patching"),
    "collect": (*FACTS, "_guard", "capture.base"),
    # What is kept as an event reaches a backend as the event: who draws it has to read it.
    "backends": (*FACTS, *BESIDE, "tfevents", "_guard", "_patching"),
    # Those that write plain files share how; it is no backend.
    **dict.fromkeys(
        ("backends.jsonl", "backends.parquet", "backends.tensorboard"),
        (*FACTS, *BESIDE, "backends.plain", "tfevents", "_guard"),
    ),
    "ship": (*FACTS, *GROUND, "backends.base"),
    # The loop is handed its backends; where it is hosted they are looked up by name.
    **dict.fromkeys(
        ("ship.credentials", "ship.drain", "ship.launch", "ship.sidecar", "ship.thread"),
        (*FACTS, *GROUND, "backends.base", "ship", "registry"),
    ),
    "registry": ("errors", "_installed", "_imports"),
    # 3: the run
    "settings": (*FACTS, *GROUND, "capture", "collect", "backends.base", "ship", "registry"),
    "run": (*FACTS, *GROUND, "capture", "collect", "backends.base", "ship", "registry", "settings"),
    # 4: what people call
    "api": (*FACTS, "run", "settings", "registry", "spool.rundir", "ship.drain", "_ledger"),
    "cli": (
        *(*FACTS, "run", "settings", "registry", "spool.rundir", "ship", "_ledger", "api"),
        "backends.base",
    ),
    "integrations": (*FACTS, "api", "capture.base", "_patching"),
    # Shipped for the authors of plug-ins: the contract, and what it takes to run it.
    "testing": (*FACTS, *GROUND, "backends.base", "capture", "ship", "registry"),
    "__init__": ("api", "run", "settings", "_ledger", *FACTS),
    "__main__": ("cli",),
}

#: What everybody may name in an annotation (`if TYPE_CHECKING:`), because it is only a shape.
SHAPES = ("backends.base", "capture.base", "collect.base", *FACTS)

#: Looked up by name in `registry`; imported by nobody.
CONCRETE = (
    "capture.tensorboard",
    "capture.tensorboardx",
    "capture.tensorflow",
    "collect.system",
    "integrations",
)

#: The one place of each foreign package. `testing` may use what it checks.
FOREIGN = {
    "aim": ("backends.aim",),
    "aimrocks": ("backends.aim",),
    "boto3": ("backends.mlflow",),
    "clearml": ("backends.clearml",),
    "click": ("cli",),
    "filelock": ("backends.aim",),
    "hypothesis": ("testing",),
    "keras": ("integrations.keras", "capture.tensorflow"),
    "lightning": ("integrations.lightning",),
    "matplotlib": ("backends.mlflow",),
    "mlflow": ("backends.mlflow",),
    "numpy": ("backends.mlflow", "capture", "run", "testing"),
    "PIL": ("backends.mlflow", "backends.wandb", "run", "testing"),
    "psutil": ("collect", "testing"),
    "pyarrow": ("backends.parquet",),
    "pydantic": ("backends", "settings", "ship", "testing", "run"),
    "pydantic_core": ("settings",),
    "pydantic_settings": ("settings",),
    "pynvml": ("collect",),
    "pytest": ("testing",),
    "requests": ("backends.aim", "backends.clearml", "backends.mlflow"),
    "sqlalchemy": ("backends.aim", "backends.mlflow"),
    "tensorboard": ("capture.tensorboard", "testing"),
    "tensorboardX": ("capture.tensorboardx", "testing"),
    "tensorflow": ("capture.tensorflow",),
    "torch": ("capture", "testing"),
    "transformers": ("integrations.huggingface",),
    "typing_extensions": ("backends", "settings"),
    "urllib3": ("backends.mlflow",),
    "wandb": ("backends.wandb",),
    "websockets": ("backends.aim",),
}

#: Modules whose every function may stand between a training and its next step.
HOT = ("_guard", "capture.taps", "spool.codec", "spool.frame")
#: And single functions elsewhere, by module.
HOT_FUNCTIONS = {"spool.writer": ("scalar", "event", "record", "append", "_append", "_write")}

#: What writes where a user reads.
TALKING = {
    "click.echo",
    "print",
    "sys.__stderr__.write",
    "sys.__stdout__.write",
    "sys.stderr.write",
    "sys.stdout.write",
}

BANNED_FOLDERS = {"core", "utils", "helpers", "common", "manager", "managers", "misc"}
BANNED_ENDINGS = ("Manager", "Handler", "Orchestrator", "Helper", "Util", "Utils", "Impl")


class Module(NamedTuple):
    """One source file of the package."""

    name: str
    path: Path
    tree: ast.Module
    package: str

    def within(self, *parts: str) -> bool:
        return any(self.name == part or self.name.startswith(f"{part}.") for part in parts)


class Import(NamedTuple):
    """One imported module: ``target`` is relative to tracelet where ``ours`` is true."""

    target: str
    ours: bool
    line: int
    annotation_only: bool


def _modules() -> Iterator[Module]:
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        package = ".".join(parts[:-1])
        name = package if parts[-1] == "__init__" and package else ".".join(parts)
        yield Module(name, path, ast.parse(path.read_text(encoding="utf-8")), package)


def _imports(module: Module) -> Iterator[Import]:
    unseen = {
        id(statement)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
    }
    for node in ast.walk(module.tree):
        for target, ours in _targets(module, node):
            yield Import(target, ours, node.lineno, id(node) in unseen)


def _targets(module: Module, node: ast.AST) -> Iterator[tuple[str, bool]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield _target(alias.name)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            up = module.package.split(".") if module.package else []
            up = up[: len(up) - (node.level - 1)]
            base = ".".join(["tracelet", *up, *([base] if base else [])])
        for alias in node.names:
            whole = _target(f"{base}.{alias.name}")
            yield whole if whole[1] and whole[0] in NAMES else _target(base)


def _target(dotted: str) -> tuple[str, bool]:
    if dotted == "tracelet" or dotted.startswith("tracelet."):
        return dotted[len("tracelet.") :] or "__init__", True
    return dotted, False


def _standard_library() -> frozenset[str]:
    names = getattr(sys, "stdlib_module_names", None)
    if names is not None:
        return frozenset(names)
    folder = Path(ast.__file__).parent  # before 3.10
    found = {path.stem for path in folder.iterdir()}
    found |= {path.name.partition(".")[0] for path in (folder / "lib-dynload").glob("*")}
    return frozenset(found | set(sys.builtin_module_names) | {"msvcrt", "winreg"})


MODULES = list(_modules())
NAMES = {module.name for module in MODULES}
IMPORTS = {module.name: list(_imports(module)) for module in MODULES}
STANDARD_LIBRARY = _standard_library()


def _part(module: Module) -> str:
    if module.within("backends") and module.name.count("."):
        # Each backend is a part of its own, though they share one row.
        own = ".".join(module.name.split(".")[:2])
        return own if own in MAY_IMPORT else "backends"
    name = module.name
    while name not in MAY_IMPORT and "." in name:
        name = name.rpartition(".")[0]
    return name


def _own(module: Module) -> str:
    parts = module.name.split(".")
    return ".".join(parts[:2]) if parts[0] == "backends" and len(parts) > 1 else parts[0]


def _below(target: str, part: str) -> bool:
    return target == part or target.startswith(f"{part}.")


def _where(module: Module, line: int) -> str:
    return f"{module.path.relative_to(ROOT.parent)}:{line}"


def test_every_module_has_a_place_in_the_table() -> None:
    assert [module.name for module in MODULES if _part(module) not in MAY_IMPORT] == []


def test_imports_go_one_way() -> None:
    assert [
        f"{_where(module, found.line)} imports {found.target}"
        for module in MODULES
        for found in IMPORTS[module.name]
        if found.ours
        and found.target != "__init__"
        and not any(
            _below(found.target, part) for part in (*MAY_IMPORT[_part(module)], _own(module))
        )
        and not (found.annotation_only and found.target in SHAPES)
    ] == []


def test_nobody_names_a_concrete_one() -> None:
    """Backends, integrations and collectors are looked up in `registry`, never imported."""
    backends = {
        name
        for name in NAMES
        if name.startswith("backends.") and not _below(name, "backends.plain")
    } - set(BESIDE)
    assert [
        f"{_where(module, found.line)} imports {found.target}"
        for module in MODULES
        for found in IMPORTS[module.name]
        if found.ours
        and any(_below(found.target, concrete) for concrete in (*backends, *CONCRETE))
        and not _below(found.target, _own(module))
    ] == []


def test_a_foreign_package_has_one_place() -> None:
    wrong = []
    for module in MODULES:
        for found in IMPORTS[module.name]:
            top = found.target.partition(".")[0]
            if found.ours or top in STANDARD_LIBRARY:
                continue
            if top not in FOREIGN:
                wrong.append(f"{_where(module, found.line)} imports {top}, which has no place")
            elif not module.within(*FOREIGN[top]):
                wrong.append(f"{_where(module, found.line)} imports {top}")
    assert wrong == []


def test_no_import_in_a_hot_function() -> None:
    wrong = []
    for module in MODULES:
        hot = HOT_FUNCTIONS.get(module.name, ())
        for function in ast.walk(module.tree):
            if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            name = function.name
            if module.within(*HOT) or name in hot or name.startswith("_tracelet_"):
                wrong += [
                    f"{_where(module, node.lineno)} in {name}"
                    for node in ast.walk(function)
                    if isinstance(node, (ast.Import, ast.ImportFrom))
                ]
    assert wrong == []


def test_hot_functions_are_where_the_table_says() -> None:
    """A hot module that is renamed must not fall out of the rule above."""
    assert [name for name in (*HOT, *HOT_FUNCTIONS) if name not in NAMES] == []


def test_no_print_outside_the_commands_and_the_two_lines_of_a_run() -> None:
    wrong = []
    for module in MODULES:
        found = [
            _where(module, node.lineno)
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in TALKING
        ]
        if not module.within("cli"):
            wrong += found[2 if module.name == "_ledger" else 0 :]
    assert wrong == []


def test_only_the_guard_and_the_shipper_catch_everything() -> None:
    assert [
        _where(module, node.lineno)
        for module in MODULES
        if not module.within("_guard", "ship")
        for node in ast.walk(module.tree)
        if _catches_everything(node)
    ] == []


def _catches_everything(node: ast.AST) -> bool:
    if isinstance(node, ast.ExceptHandler):
        return _is_broad(node.type) and not _goes_on(node)
    return (
        isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("suppress")
        and any(_is_broad(argument) for argument in node.args)
    )


def _goes_on(handler: ast.ExceptHandler) -> bool:
    """Cleans up and raises again: nothing is swallowed."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def _is_broad(node: ast.expr | None) -> bool:
    if node is None:
        return True
    if isinstance(node, ast.Tuple):
        return any(_is_broad(element) for element in node.elts)
    return ast.unparse(node).rpartition(".")[2] in ("Exception", "BaseException")


def test_folders_are_stages_and_classes_are_nouns() -> None:
    folders = {path.name for path in ROOT.rglob("*") if path.is_dir()}
    assert folders & BANNED_FOLDERS == set()
    modules = {module.path.stem for module in MODULES}
    assert modules & BANNED_FOLDERS == set()
    classes = [
        f"{_where(module, node.lineno)} {node.name}"
        for module in MODULES
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and node.name.endswith(BANNED_ENDINGS)
    ]
    assert classes == []


def test_every_module_may_name_types_that_are_younger_than_the_oldest_python() -> None:
    without = [
        str(module.path.relative_to(ROOT))
        for module in MODULES
        if len(module.tree.body) > 1
        and not any(
            isinstance(node, ast.ImportFrom) and node.module == "__future__"
            for node in module.tree.body
        )
    ]
    assert without == []
