"""What is to be done and what was done: worklist items down to the boxes, performed procedure steps up from them."""
