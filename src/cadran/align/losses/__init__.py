"""What alignment minimises, as functions of tensors: no model, no data, no state.

Each file holds one family: ``preference`` (DPO and its kin), ``kto``, ``reward``, ``policy``, ``value``, ``kl``; and
``aggregate`` turns losses per token into one number that adds up over micro-batches. Import them from their files.
"""
