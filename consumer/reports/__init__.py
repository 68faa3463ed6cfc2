"""What the operators and the collections people ask for, and how it is shown to them."""
