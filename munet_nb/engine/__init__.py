"Trains a generation: batches, compiled programs, shared trunks, devices."
