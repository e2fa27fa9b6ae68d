"""What a person does to a finished run: what is worth a look, corrections, tracking again, versions."""
