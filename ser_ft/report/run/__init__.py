"""The report of one run: one HTML file, with its figures."""
