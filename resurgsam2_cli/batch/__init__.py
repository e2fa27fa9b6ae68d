"""Many videos: finding them, what to do with each, who does the work, and the record of what happened."""
