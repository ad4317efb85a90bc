"""The comparison of several runs: tables, significance and figures on one page."""
