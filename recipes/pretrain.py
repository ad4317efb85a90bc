"""Continue the pretraining of an encoder on the training speakers' speech, without labels, before fine-tuning.

accelerate launch recipes/pretrain.py --config recipes/pretraining/NAME.yaml
"""

import sys

from ser_ft.cli.training import pretrain

if __name__ == "__main__":
    sys.exit(pretrain())
