"""The folder that `evaluate.load` is pointed at: its script must have the name of the folder."""
