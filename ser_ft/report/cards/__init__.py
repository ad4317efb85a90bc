"""Model cards and data cards for the Hub."""
