"""How long a recipe takes on given machines, what it costs, what holds it back and what stops it from growing."""
