"""Files and folders: atomic writing, locks, JSON, label images, colours. Nothing here knows about video or runs."""
