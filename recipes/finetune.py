"""Fine-tune and evaluate a model as a recipe says: `accelerate launch recipes/finetune.py --config recipes/NAME.yaml`."""

import sys

from ser_ft.training.main import main

if __name__ == "__main__":
    sys.exit(main())
