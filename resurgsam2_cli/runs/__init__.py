"""A run on disk: its record, its folder, reading it back. The only place that knows what a run looks like."""
