"""Run folders, predictions, metrics with confidence intervals, calibration and comparison of systems."""
