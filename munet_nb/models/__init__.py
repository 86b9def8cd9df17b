"Layers that models share, and what each model is charged for them."
