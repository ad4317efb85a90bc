"""Continue an encoder's pretraining on the training speakers' sound, without labels, before it is fine-tuned.

accelerate launch recipes/pretrain.py --config recipes/pretraining/NAME.yaml
"""

import sys

from ser_ft.training.wav2vec2.command import main

if __name__ == "__main__":
    sys.exit(main())
