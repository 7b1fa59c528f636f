"""What becomes of a run's folder on the Hub: its record, its card and its files; merged adapters."""
