"""How fast a topic is replayed: refold beside what one would write by hand, and how late a live view is. See ``replay``."""
