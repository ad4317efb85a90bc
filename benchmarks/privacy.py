"""Network connections of the commands, and the files that they leave in a new home folder.

    python benchmarks/privacy.py
    python benchmarks/privacy.py --only predict,train

Each command runs under strace with an empty HOME and without HF_HUB_OFFLINE, so that only the package itself keeps
it from the network. All sounds and models are synthetic or shipped. The demo answers requests of `gradio_client`. The
table shows for each command the addresses outside of this machine that it connects or sends to (name servers included)
and the folders in HOME that hold files afterwards. The exit code is 1 if there is any such address, except those that
Ray itself asks for.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from ser_ft.data.synthetic.corpora import write_miniature  # noqa: E402

_REMOVED = re.compile("HF_|SER_FT_|XDG_|MPL|TORCH|ORT_|GRADIO_|RAY_|DO_NOT_TRACK|DISABLE_TELEMETRY")
_ADDRESS = re.compile(r'sa_family=AF_INET6?, sin6?_port=htons\((\d+)\),.*?"([0-9a-f.:]+)"')
_HOLD = "import sys, time; from ser_ft import EmotionRecognizer; EmotionRecognizer()(sys.argv[1]); time.sleep(20)"
_SER_FT = ["-m", "ser_ft.cli"]
_TRAIN = ["--data.prepared=table", "--split.kind=speaker", "--train.max_steps=2", "--baselines=[majority]"]


def outside_addresses(trace: Path) -> Counter[str]:
    """Return the addresses in a trace that are not on this machine, with the number of calls."""
    addresses = _ADDRESS.findall(trace.read_text(errors="replace"))
    return Counter(f"{host}:{port}" for port, host in addresses if not is_local(host))


def is_local(host: str) -> bool:
    """Return whether an address is one of this machine."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as listener:
        try:
            listener.bind((host, 0))
        except OSError:
            return False
    return True


def left_in(home: Path) -> Counter[str]:
    """Return the folders in a home folder, up to three levels deep, with their numbers of files."""
    files = [path.relative_to(home) for path in home.rglob("*") if not path.is_dir()]
    return Counter("/".join(path.parts[:-1][:3]) or path.name for path in files)


class Session:
    """Runs commands under strace in a folder, each with an empty home folder."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.failed = False

    def start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a Python command."""
        home = self.work / "homes" / name
        home.mkdir(parents=True)
        environment = {key: value for key, value in os.environ.items() if not _REMOVED.match(key)}
        environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
        calls = ["-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", f"{name}.trace"]
        command = [word.replace("RECIPES", str(ROOT / "recipes")) for word in command]
        with (self.work / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                ["strace", "-f", "-qq", *calls, sys.executable, *command],
                cwd=self.work,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def finish(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Wait for a command, and print its row of the table."""
        code = process.wait()
        outside, left = outside_addresses(self.work / f"{name}.trace"), left_in(self.work / "homes" / name)
        self.failed |= bool(outside) and name != "predict_ray"
        texts = [", ".join(f"{key} ({count})" for key, count in sorted(c.items())) or "-" for c in (outside, left)]
        print(f"{name:12} exit code {code:3}   outside: {texts[0]}   in HOME: {texts[1]}", flush=True)


def use_page(process: subprocess.Popen[bytes], log: Path, clip: str) -> None:
    """Wait for the page, whose address is in its log, send requests to it, and stop it."""
    from gradio_client import Client, handle_file

    while not (address := re.search(r"http://127\.\S+", log.read_text())):
        if process.poll() is not None:
            sys.exit("the page did not start")
        time.sleep(0.1)
    client = Client(address[0], verbose=False)
    for _ in range(5):
        client.predict(handle_file(clip), api_name="/recognize")
    client.close()
    time.sleep(10)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    os.kill(int(children.split()[0]), signal.SIGTERM)


def commands(clip: str) -> dict[str, list[str]]:
    """Return the commands, in the order in which they use each other's output; "demo" is started separately."""
    return {
        "prepare": [*_SER_FT, "prepare", "voices", "--out", "table"],
        "audit": [*_SER_FT, "audit", "table"],
        "explore": [*_SER_FT, "explore", "table", "--out", "explored"],
        "augment": [*_SER_FT, "augment", clip, "--out", "augmented"],
        "train": [*_SER_FT, "train", *_TRAIN, "--model.name", "mfcc-cnn", "--out", "run"],
        "finetune": ["RECIPES/finetune.py", *_TRAIN, "--model.name", "shipped", "--out", "tuned"],
        "sweep": [*_SER_FT, "sweep", "RECIPES/mfcc_cnn_ravdess.yaml", "--out", "swept", *_TRAIN],
        "evaluate": [*_SER_FT, "evaluate", "run", "--data", "table", "--out", "evaluated", "--include-seen-speakers"],
        "compare": [*_SER_FT, "compare", "run", "tuned"],
        "fuse": [*_SER_FT, "fuse", "run", "tuned", "--out", "fused"],
        "report": [*_SER_FT, "report", "run", "--data", "table"],
        "export": [*_SER_FT, "export", "run", "--out", "run.onnx"],
        "push": [*_SER_FT, "push", "run", "someone/name", "--dry-run"],
        "predict": [*_SER_FT, "predict", clip],
        "predict-run": [*_SER_FT, "predict", clip, "--model", "run"],
        "held-open": ["-c", _HOLD, clip],
        "monitor": [*_SER_FT, "monitor", clip],
        "predict_ray": ["RECIPES/predict_ray.py", clip, "--out", "predictions", "--workers", "1"],
        "demo": [*_SER_FT, "demo"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names of commands, separated by commas")
    parser.add_argument("--work", help="folder of the outputs and traces, which are kept (default: a temporary one)")
    options = parser.parse_args()
    if not shutil.which("strace"):
        sys.exit("this needs strace: apt-get install strace")
    with tempfile.TemporaryDirectory() as folder:
        session = Session(Path(options.work or folder).resolve())
        voices = write_miniature(session.work / "voices", progress=False, speakers=2)
        clip = str(next(voices.rglob("03-01-05-*.wav")))
        for name, command in commands(clip).items():
            if options.only is None or name in options.only.split(","):
                process = session.start(name, command)
                if name == "demo":
                    use_page(process, session.work / "demo.log", clip)
                session.finish(name, process)
    return int(session.failed)


if __name__ == "__main__":
    sys.exit(main())
