"""Predictions of saved models in a process with transformers and without ser_ft."""

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
"""The beginning of a script in which importing ser_ft fails."""
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
        scores = {item["label"]: item["score"] for item in classify({"raw": sound, "sampling_rate": 16000})}
        with torch.inference_mode():
            inputs = extractor(sound, sampling_rate=16000, return_tensors="pt")
            probabilities = model(**inputs).logits[0].softmax(-1).tolist()
        labels = model.config.id2label
        assert all(abs(scores[labels[index]] - value) < 1e-6 for index, value in enumerate(probabilities))
        answers.append(scores)
    print(json.dumps(answers), flush=True)
"""
)


def answers(folders: Sequence[Path], sounds: Sequence[np.ndarray], scratch: Path) -> list[list[dict[str, float]]]:
    """Return the probabilities by label of each saved model for each clip (16 kHz), computed in a new process.

    The pipeline of transformers and the Auto classes must agree.
    """
    np.savez(scratch / "sounds.npz", *sounds)
    process = subprocess.run(
        [sys.executable, "-I", "-c", _SCRIPT, str(scratch / "sounds.npz"), *map(str, folders)],
        env=os.environ | {"HF_HOME": str(scratch / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return [json.loads(line) for line in process.stdout.splitlines()[-len(folders) :]]
