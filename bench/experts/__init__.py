"""Five systems around mixtures of experts, each an experiment that decides a claim: `python -m bench experts`."""
