"""What a model is: its contract, its file, its binding to a matrix, and the shipped ones."""
