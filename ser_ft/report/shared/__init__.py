"""Tables, plots, HTML templates and other parts that several reports use."""
