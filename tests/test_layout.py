"""The import order of the package, and the length of its modules, stay as docs/contributing.md describes them."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ORDER = (
    "utils labels audio data models config dataloading evaluation training inference export report monitor hub "
    "pipeline cli"
).split()


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in sorted((ROOT / "ser_ft").rglob("*.py"))}


def import_statements(tree: ast.AST) -> Iterator[ast.ImportFrom | ast.Import]:
    """Yield all imports, those inside functions included, without those for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom | ast.Import):
            yield node
        yield from import_statements(node)


def imported_modules(name: str) -> set[str]:
    """Return the modules of ser_ft that a module imports."""
    file, targets = FILES[name], set()
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in import_statements(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names} & FILES.keys()
            continue
        base = package[: len(package) - node.level + 1] if node.level else []
        source = ".".join([*base, *(node.module.split(".") if node.module else [])])
        submodules = {f"{source}.{alias.name}" for alias in node.names} & FILES.keys()
        targets |= submodules | ({source} & FILES.keys() if len(submodules) < len(node.names) else set())
    return targets - {name}


IMPORTS = {name: imported_modules(name) for name in FILES if name != "ser_ft"}


def test_no_module_imports_from_a_package_that_comes_after_its_own() -> None:
    assert {name.split(".")[1] for name in IMPORTS} == set(ORDER), "a new package has its place in ORDER"
    position = {name: ORDER.index(name.split(".")[1]) for name in IMPORTS} | {"ser_ft": len(ORDER)}
    against = {(name, target) for name in IMPORTS for target in IMPORTS[name] if position[target] > position[name]}
    assert not against


def test_no_modules_import_each_other_in_a_circle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        # A package's __init__ imports its own modules, which may import its other modules.
        for target in sorted(IMPORTS[name]) if name not in done else ():
            if not name.startswith(f"{target}."):
                visit(target, (*path, name))
        done.add(name)

    for name in IMPORTS:
        visit(name, ())


def test_only_the_demo_needs_gradio() -> None:
    files = [*FILES.values(), *(ROOT / "recipes").glob("*.py")]
    sources = {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}
    text = {file: " ".join(map(ast.unparse, import_statements(tree))) for file, tree in sources.items()}
    assert not [file for file, statements in text.items() if "gradio" in statements.replace("gradio_client", "")]


def test_no_module_is_too_long_to_be_read_in_one_sitting() -> None:
    lengths = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in FILES.items()}
    assert not {name: lines for name, lines in lengths.items() if lines > 400}


def test_everything_printed_has_visible_control_characters() -> None:
    trees = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in FILES.items()}
    calls = {
        name: [n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
        for name, tree in trees.items()
    }
    assert [name for name in calls if "print" in calls[name]] == ["ser_ft.utils.text"], "print_text escapes them"
