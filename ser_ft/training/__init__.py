"""Fine-tuning with accelerate."""
