"Who does the work of a search: this process, others of this machine, or a cluster."
