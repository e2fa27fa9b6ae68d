"""A long video in pieces: where it is cut, what is which object in two neighbours, and the whole run of all of them."""
