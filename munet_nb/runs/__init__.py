"A search on disk, and the system that it makes."
