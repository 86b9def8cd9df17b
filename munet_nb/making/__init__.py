"Makes the data that comes with the package."
