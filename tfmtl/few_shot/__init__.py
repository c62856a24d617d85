"""What a model is worth on groups it never saw, such as new advertisers, after k rows of each.

In go a trained model and rows of groups that were held out; out comes a report, `ColdStart`, with
intervals over groups. Training a model to adapt well belongs to `meta`.

- `cold_start`: adapts and judges the models; `adapt`: one adaptation.
- `draws`: which rows of a group adapt the model, and which judge it.
- `resamples`: metrics over all groups, with intervals by groups.
- `report`: `ColdStart`; `picture`: the report drawn.
"""
