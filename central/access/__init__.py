"""Who someone is, and the one policy that says what they may see."""
