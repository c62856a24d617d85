"""Meta-training in two stages, as MAN does it: the model learns to adapt to tasks.

In go an experiment with `Meta` and packed rows; out comes a trained model of any backbone. The
backbone MAN belongs to `backbones`; adapting a trained model to new groups belongs to `few_shot`.
"""
