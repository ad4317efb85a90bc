"""A Space: the demo with the user's model, and a wheel of ser_ft that it installs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

from ..utils.atomic import temporary_folder
from ..utils.errors import InputError
from ..utils.files import MODEL_FILE, demo_folder
from ..utils.text import print_text
from .upload import Content, Upload

_SER_FT_REQUIREMENT = re.compile(r"\s*(?:\./)?ser[-_]ft(?P<extras>\[[^\]]*\])?(?=[\s@<>=!~-]|$)", re.IGNORECASE)
_EXCLUDED = ("__pycache__", "flagged")


def space_upload(name: str) -> Upload:
    """Collect the files of a Space: the demo, model.txt with the model's name, and a wheel of ser_ft."""
    folder = demo_folder()
    files: dict[str, Content] = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part in _EXCLUDED or part.startswith(".") for part in path.relative_to(folder).parts)
    }
    for required in ("app.py", "README.md"):
        if required not in files:
            raise InputError(f"{folder}: not a Space: {required} is missing")
    sdk = _front_matter(folder / "README.md").get("sdk")
    if not isinstance(sdk, str):
        raise InputError(f"{folder / 'README.md'}: its metadata does not name the sdk of the Space")
    wheel, wheel_name = build_wheel()
    files[wheel_name] = wheel
    files[MODEL_FILE] = f"{name}\n".encode()
    requirements = folder / "requirements.txt"
    lines = requirements.read_text(encoding="utf-8").splitlines() if requirements.is_file() else []
    files["requirements.txt"] = _requirements(lines, name, wheel_name).encode()
    return Upload(name, "space", files, f"The demo with {name}, by ser_ft", sdk=sdk, package_files=True)


def build_wheel() -> tuple[bytes, str]:
    """Build a wheel of ser_ft from its sources, because ser_ft is not on PyPI; return its bytes and its file name."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file() or not (root / "ser_ft").is_dir():
        raise InputError(
            "ser_ft was installed without its sources, from which the Space's wheel is built: push from a checkout "
            "(pip install -e .)"
        )
    print_text("building the wheel of ser_ft that the Space installs", file=sys.stderr)
    with temporary_folder() as work:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(work), str(root)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(work.glob("ser_ft-*.whl"))
        if result.returncode or len(wheels) != 1:
            reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise InputError(f"the wheel of ser_ft that the Space installs cannot be built: {reason[:300]}")
        return wheels[0].read_bytes(), wheels[0].name


def _requirements(lines: list[str], name: str, wheel: str) -> str:
    """Return requirements that install ser_ft from the Space itself.

    A Space installs its requirements before its other files are in place, so the wheel must be named by its address.
    """
    from huggingface_hub import constants

    address = f"{constants.ENDPOINT}/spaces/{name}/resolve/main/{wheel}"
    others, extras = [], ""
    for line in lines:
        if match := _SER_FT_REQUIREMENT.match(line):
            extras = match["extras"] or extras
        else:
            others.append(line)
    return "\n".join([*others, f"ser_ft{extras} @ {address}", ""])


def _front_matter(file: Path) -> dict[str, object]:
    text = file.read_text(encoding="utf-8")
    block = text.split("---", 2)[1] if text.startswith("---") and text.count("---") > 1 else ""
    try:
        metadata = yaml.safe_load(block)
    except yaml.YAMLError as error:
        raise InputError(f"{file}: its metadata is not valid YAML ({error})") from error
    return metadata if isinstance(metadata, dict) else {}
