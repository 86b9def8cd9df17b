"The evolution beside its rivals: quality, size and speed."
