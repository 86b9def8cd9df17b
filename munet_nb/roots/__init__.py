"Pretrained models to start from, and models to take away."
