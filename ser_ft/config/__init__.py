"""Recipes: the dataclasses of all settings, and the parser of YAML files and command-line overrides."""
