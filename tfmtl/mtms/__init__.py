"""Many tasks in many scenes, whose components share no embeddings (MTMS; Tan et al., Baidu).

In go an experiment with `mtms=MTMS(…)` and the rows of one slot (a day); out come tables and
networks on disk and a model that serves. A component is a task in a scene and owns its embedding
tables. In each slot the tables of every scene are updated from those of the slot before, by a
network of that scene; then one network per component is fine-tuned on the tables of several
components, which stay as they are. Backbones of many scenes with one training loop (`star`,
`per_scene`) belong to `backbones`.

- `slot`: `train_slot`, the entrance; `slot_parts`, `part_training`, `embedding_update`,
  `fine_tuning`, `passes`: its steps.
- `units`: rows of one scene as a problem of its own, and the ids its tables hold.
- `store`: a component's tables and networks on disk, and how the next slot takes them over.
- `frozen`: the look-up in the tables of all components, fused into one search and one gather.
- `model`: `MTMSModel`, what is served.
"""
