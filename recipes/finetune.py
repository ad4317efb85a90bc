"""Train, evaluate and report a model as a recipe says.

accelerate launch recipes/finetune.py --config recipes/NAME.yaml
"""

import sys

from ser_ft.cli import train

if __name__ == "__main__":
    sys.exit(train())
