"Image-classification tasks, and where they come from."
