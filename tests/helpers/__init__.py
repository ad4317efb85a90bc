"""Helpers that several tests share: tiny models, made-up runs, files and servers."""
