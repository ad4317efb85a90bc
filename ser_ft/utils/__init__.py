"""Errors, files, progress bars and access to the Hub: what every other part of ser_ft uses."""
