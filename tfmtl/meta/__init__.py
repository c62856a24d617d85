"""Meta-training in two stages, as in MAN: the model learns to adapt to tasks.

The input is an experiment with `Meta`, and packed rows. The output is a trained model of any
backbone. The backbone MAN belongs to `backbones`, and the adaptation of a trained model to new
groups to `few_shot`.
"""
