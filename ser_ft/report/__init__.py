"""Reports: of a run, of a comparison, of a data set, and cards for the Hub."""
