"""What the experiments compute: numbers in, numbers out; one module per notebook, and what several of them share."""
