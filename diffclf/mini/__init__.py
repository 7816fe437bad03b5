"""The miniature world: tinted Fashion-MNIST scenes, their captions, and the training of the embedded models."""
