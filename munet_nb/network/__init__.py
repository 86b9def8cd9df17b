"A Vision Transformer as a chain of named layers."
