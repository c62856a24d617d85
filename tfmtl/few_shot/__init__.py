"""Quality of a model on groups it never saw, such as new advertisers, after k rows of each.

- `draws`: which rows of a group adapt the model, and which judge it.
- `resamples`: metrics over all groups, with intervals by groups.
- `report`: `ColdStart`, the results.
- `picture`: the report drawn.
- `cold_start`: adapts and judges the models; `adapt`: one adaptation.
"""
