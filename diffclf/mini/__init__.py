"""Makes the embedded models: one recipe per model (`recipes.py`), from Fashion-MNIST's training file and a seed."""
