"""Many videos: finding them, what is asked of each, who does the work, and the record of what happened."""
