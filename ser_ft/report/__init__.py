"""What a run is shown as: figures, comparison tables, the HTML report and the model card."""
