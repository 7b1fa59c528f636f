"""Datasets as the columns that the trainers read, and the embedded task. Nothing here loads torch."""
