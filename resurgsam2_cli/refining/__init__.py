"""A finished run is corrected: what a person says is kept, the rest follows, and every version can be had again."""
