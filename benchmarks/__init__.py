"""How fast a topic is replayed: refold beside what one would write by hand. Run with `make bench`."""
