"""What a machine with one GPU is asked when it can be had for minutes: `python -m bench gpu`."""
