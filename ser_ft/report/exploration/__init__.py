"""A data set before training: statistics, figures and a map of its clips on one page."""
