"""The import order of the package, and the length of its modules, stay as docs/contributing.md describes them."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "ser_ft"
ORDER = (
    "utils",
    "labels",
    "audio",
    "data",
    "models",
    "config",
    "dataloading",
    "evaluation",
    "training",
    "inference",
    "export",
    "report",
    "monitor",
    "hub",
    "pipeline",
    "cli",
)


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports_of(tree: ast.AST) -> Iterator[ast.ImportFrom | ast.Import]:
    """Yield all imports, those inside functions included, without those for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom | ast.Import):
            yield node
        yield from imports_of(node)


@cache
def imported_modules(name: str) -> frozenset[str]:
    """Return the modules of ser_ft that a module imports."""
    file = FILES[name]
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    targets = set()
    for node in imports_of(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names if alias.name in FILES}
            continue
        base = package[: len(package) - node.level + 1] if node.level else []
        source = ".".join([*base, *(node.module.split(".") if node.module else [])])
        for alias in node.names:
            submodule = f"{source}.{alias.name}"
            targets |= {submodule} if submodule in FILES else {source} & FILES.keys()
    return frozenset(targets - {name})


def test_no_module_imports_from_a_package_that_comes_after_its_own() -> None:
    names = [name.split(".")[1] for name in FILES if name != "ser_ft"]
    assert set(names) == set(ORDER), "a new package has its place in ORDER, and in docs/contributing.md"
    position = {name: place for place, name in enumerate(ORDER)}
    against = [
        f"{name} imports {target}"
        for name in FILES
        if name != "ser_ft"
        for target in imported_modules(name)
        if target == "ser_ft" or position[target.split(".")[1]] > position[name.split(".")[1]]
    ]
    assert not against, "\n".join(against)


def test_no_modules_import_each_other_in_a_circle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for target in sorted(imported_modules(name)):
            # A package's __init__ imports its own modules, which may use its other modules.
            if not name.startswith(f"{target}."):
                visit(target, (*path, name))
        done.add(name)

    for name in FILES:
        if name != "ser_ft":
            visit(name, ())


def test_only_the_demo_needs_gradio() -> None:
    imports = re.compile(r"^\s*(import|from) gradio", re.MULTILINE)
    files = [*FILES.values(), *(PACKAGE.parent / "recipes").glob("*.py")]
    assert not [file for file in files if imports.search(file.read_text(encoding="utf-8"))]


def test_no_module_is_too_long_to_be_read_in_one_sitting() -> None:
    lengths = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in FILES.items()}
    assert not {name: lines for name, lines in lengths.items() if lines > 400}
