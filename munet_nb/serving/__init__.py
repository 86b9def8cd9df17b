"A system in use: a server and its page."
