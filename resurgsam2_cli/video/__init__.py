"""Reading frames from files, folders and standard input, and writing H.264."""
