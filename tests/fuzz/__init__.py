"""Damaged input of every kind: nothing of it may crash, hang, fill the memory, or write where it has no business."""
