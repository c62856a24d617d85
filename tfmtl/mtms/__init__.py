"""Many tasks in many scenes, whose components share no embeddings (MTMS; Tan et al., Baidu).

A component is a task in a scene and has its own embedding tables. Time is divided into slots
(days). In each slot the tables of every scene are updated from those of the slot before, by a
network of that scene. Then one network per component is fine-tuned on the tables of several
components, which are frozen. The fine-tuned networks and the tables are served.

- `units`: rows of one scene as a separate problem, and the ids that its tables hold.
- `store`: a component's tables and networks on disk, and how the next slot reads them.
- `frozen`: the look-up in the tables of all components, as one search and one gather.
- `model`: `MTMSModel`, the served model.
- `slot`: `train_slot`, which trains one slot; `slot_parts`, `embedding_update`, `fine_tuning` and
  `passes` are its steps.

The settings, `MTMS`, are in `tfmtl.declare.mtms`.
"""
