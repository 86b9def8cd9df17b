"A run in the tracking services that people use: TensorBoard, MLflow, Weights & Biases."
