"""Many tasks in many scenes, whose components share no embeddings (MTMS; Tan et al., Baidu).

A component is a task in a scene and owns its embedding tables. Time is cut into slots (days). In
each slot every scene's tables are updated from those of the slot before, by a network of the
scene's own; then one network a component is fine-tuned on the tables of several components, which
stay as they are. What is served is the fine-tuned networks and the tables.

- `declare`: `MTMS`, the settings, and what follows of them for a problem.
- `units`: rows of one scene as a problem of its own, and the ids its tables hold.
- `store`: a component's tables and networks on disk, and how they are carried into the next slot.
- `frozen`: the look-up in all components' tables, fused into one search and one gather.
- `model`: `MTMSModel`, what is served.
- `slot`: `train_slot`, which trains one slot; `slot_parts`, `embedding_update`, `fine_tuning` and
  `passes` are its steps.
"""
