"""What runs inside a training pod: the agent beside the training, the restore before it, the gate after it.

Nothing here imports the operator's side; ``gate`` imports the standard library only.
"""
