"""A Space: the demo with a model of one's own in it, and ser_ft beside it."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from ..utils.errors import InputError
from ..utils.files import MODEL_FILE, demo_folder
from .upload import Content, Upload

_OURS = re.compile(r"\s*(?:\./)?ser[-_]ft(?P<extras>\[[^\]]*\])?(?=[\s@<>=!~-]|$)", re.IGNORECASE)
_LEFT_OUT = ("__pycache__", ".git", ".gradio", "flagged")


def space_upload(name: str) -> Upload:
    """Gather a Space: the demo's folder, model.txt with the model's name, and ser_ft's wheel, which it installs.

    Args:
        name: of the model, and of the Space.

    Raises:
        InputError: there is no demo, it is no Space, or the wheel cannot be built.
    """
    folder = demo_folder()
    files: dict[str, Content] = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part in _LEFT_OUT or part.startswith(".") for part in path.relative_to(folder).parts)
    }
    for needed in ("app.py", "README.md"):
        if needed not in files:
            raise InputError(f"{folder}: no Space: {needed} is missing")
    sdk = _front_matter(folder / "README.md").get("sdk")
    if not isinstance(sdk, str):
        raise InputError(f"{folder / 'README.md'}: its head does not say which sdk runs the Space")
    content, called = build_wheel()
    files[called] = content
    files[MODEL_FILE] = f"{name}\n".encode()
    requirements = folder / "requirements.txt"
    given = requirements.read_text(encoding="utf-8") if requirements.is_file() else ""
    files["requirements.txt"] = _requirements(given, name, called).encode()
    return Upload(name, "space", files, f"The demo with {name}, by ser_ft", sdk=sdk, ours=True)


def build_wheel() -> tuple[bytes, str]:
    """Build ser_ft's wheel from its sources: what is not published cannot be installed from elsewhere.

    Returns:
        Its bytes and its file's name.

    Raises:
        InputError: ser_ft was installed without its sources, or they cannot be built here.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file() or not (root / "ser_ft").is_dir():
        raise InputError(
            "ser_ft was installed without its sources, of which a Space's copy is built: push it from a checkout "
            "(pip install -e .)"
        )
    print("building ser_ft's wheel, which the Space installs", file=sys.stderr)
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", work, str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        built = sorted(Path(work).glob("ser_ft-*.whl"))
        if done.returncode or len(built) != 1:
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise InputError(f"ser_ft's wheel cannot be built here, which a Space installs: {said[:300]}")
        return built[0].read_bytes(), built[0].name


def _requirements(given: str, name: str, wheel: str) -> str:
    """Return requirements that install ser_ft from the Space itself.

    A Space's requirements are installed before its other files are there, so that only an address can be named.
    """
    from huggingface_hub import constants

    address = f"{constants.ENDPOINT}/spaces/{name}/resolve/main/{wheel}"
    lines, extras = [], ""
    for line in given.splitlines():
        if match := _OURS.match(line):
            extras = match["extras"] or extras
        else:
            lines.append(line)
    return "\n".join([*lines, f"ser_ft{extras} @ {address}", ""])


def _front_matter(file: Path) -> dict[str, object]:
    text = file.read_text(encoding="utf-8")
    head = text.split("---", 2)[1] if text.startswith("---") and text.count("---") > 1 else ""
    try:
        found = yaml.safe_load(head)
    except yaml.YAMLError as error:
        raise InputError(f"{file}: its head is no YAML ({error})") from error
    return found if isinstance(found, dict) else {}
