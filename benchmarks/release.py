"""Checks before a release: reproducible packages, a list of what they need (SBOM), known vulnerabilities.

    pip install build hatchling cyclonedx-bom pip-audit
    python benchmarks/release.py build --out dist
    python benchmarks/release.py sbom --out dist/sbom.json
    python benchmarks/release.py audit --out dist/sbom.json

build: the last commit is built twice, from two folders and under two umasks, with the time of the commit as
SOURCE_DATE_EPOCH. The sdist and the wheel must be the same, byte for byte, and so must be a wheel that is built from
the sdist. sbom: the package is installed with its required dependencies into a fresh virtual environment, which is
listed with versions, licenses and hashes in the format CycloneDX 1.6. audit: pip-audit looks up the packages of that
list; packages that the service does not know count as not checked, not as safe.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, umask: int = 0o022, **environment: str) -> str:
    result = subprocess.run(
        list(map(str, command)),
        env=os.environ | environment,
        umask=umask,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return result.stdout


def build(work: Path, out: Path) -> int:
    epoch = run("git", "-C", ROOT, "log", "-1", "--format=%ct").strip()
    found: dict[str, set[str]] = {}
    for folder, umask in (("first", 0o022), ("second/with another name", 0o077)):
        source = work / folder / "source"
        run("git", "clone", "--quiet", ROOT, source, umask=umask)
        target = out if folder == "first" else work / folder / "dist"
        environment = {"SOURCE_DATE_EPOCH": epoch, "TZ": "UTC" if folder == "first" else "Asia/Kolkata"}
        # The wheel is built from the sdist, as pip does it.
        command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", target, source)
        run(*command, umask=umask, **environment)
        run(*command[:4], "--wheel", "--outdir", work / folder / "direct", source, umask=umask, **environment)
        for file in [*target.glob("ser_ft-*"), *(work / folder / "direct").iterdir()]:
            found.setdefault(file.name, set()).add(hashlib.sha256(file.read_bytes()).hexdigest())
    for name, hashes in sorted(found.items()):
        print(f"{name}: {'reproducible' if len(hashes) == 1 else 'DIFFERS'}: {', '.join(sorted(hashes))}")
    return int(any(len(hashes) > 1 for hashes in found.values()))


def sbom(work: Path, out: Path) -> int:
    venv.create(work / "environment", with_pip=True)
    python = work / "environment" / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", ROOT)
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "pip", "setuptools")
    out.parent.mkdir(parents=True, exist_ok=True)
    options = ("--pyproject", ROOT / "pyproject.toml", "--output-reproducible", "--spec-version", "1.6", "-o", out)
    run(sys.executable, "-m", "cyclonedx_py", "environment", *options, python)
    components = json.loads(out.read_text(encoding="utf-8"))["components"]
    unknown = sorted(component["name"] for component in components if not component.get("licenses"))
    print(f"{out}: {len(components)} packages; without a stated license: {', '.join(unknown) or 'none'}")
    return 0


def audit(work: Path, out: Path) -> int:
    components = json.loads(out.read_text(encoding="utf-8"))["components"]
    packages = [f"{item['name']}=={item['version']}" for item in components if item["name"] != "ser_ft"]
    (work / "requirements.txt").write_text("\n".join(packages) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--format", "json"]
    result = subprocess.run(
        [*command, "-r", str(work / "requirements.txt")], stdout=subprocess.PIPE, text=True, check=False
    )
    if not result.stdout.strip():
        print("pip-audit gave no answer: the service cannot be reached")
        return 1
    entries = json.loads(result.stdout)["dependencies"]
    skipped = [entry["name"] for entry in entries if "skip_reason" in entry]
    vulnerable = [entry for entry in entries if entry.get("vulns")]
    print(f"{len(entries) - len(skipped)} packages checked, {len(skipped)} not checked, {len(vulnerable)} vulnerable")
    for entry in vulnerable:
        print(f"  {entry['name']} {entry['version']}: {', '.join(item['id'] for item in entry['vulns'])}")
    return int(bool(vulnerable or skipped))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("build", "sbom", "audit"))
    parser.add_argument("--out", type=Path, required=True, help="a folder for build, else the file of the SBOM")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        return {"build": build, "sbom": sbom, "audit": audit}[options.what](Path(work), options.out.absolute())


if __name__ == "__main__":
    sys.exit(main())
