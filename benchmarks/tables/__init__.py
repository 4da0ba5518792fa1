"""Tables of real LoRA trials, trained to the end, on which searches are compared without training anything."""
