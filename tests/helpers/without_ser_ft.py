"""A machine with transformers and without ser_ft: what it makes of a saved folder."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

WITHOUT_SER_FT = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ser_ft":
            raise ModuleNotFoundError(f"no module named {name}")

sys.meta_path.insert(0, Absent())
"""
"""What a script begins with: wherever ser_ft is installed here, importing it fails."""
_SCRIPT = (
    WITHOUT_SER_FT
    + """
import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

sounds = list(np.load(sys.argv[1]).values())
for folder in sys.argv[2:]:
    classify = pipeline("audio-classification", folder, trust_remote_code=True, top_k=None)
    model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
    answers = []
    for sound in sounds:
        found = {each["label"]: each["score"] for each in classify({"raw": sound, "sampling_rate": 16000})}
        with torch.inference_mode():
            inputs = extractor(sound, sampling_rate=16000, return_tensors="pt")
            shares = model(**inputs).logits[0].softmax(-1).tolist()
        assert all(abs(found[model.config.id2label[place]] - share) < 1e-6 for place, share in enumerate(shares))
        answers.append(found)
    print(json.dumps(answers), flush=True)
"""
)


def answers(folders: Sequence[Path], sounds: Sequence[np.ndarray], scratch: Path) -> list[list[dict[str, float]]]:
    """Ask the models in folders, each about all sounds (16 kHz), in a process of its own: label -> probability.

    The pipeline of transformers and the Auto classes must agree.
    """
    np.savez(scratch / "sounds.npz", *sounds)
    done = subprocess.run(
        [sys.executable, "-I", "-c", _SCRIPT, str(scratch / "sounds.npz"), *map(str, folders)],
        env=os.environ | {"HF_HOME": str(scratch / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()[-len(folders) :]]
