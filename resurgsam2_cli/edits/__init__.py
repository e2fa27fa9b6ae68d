"""What a person corrected in another tool, or in a run's own images, one module per form."""
