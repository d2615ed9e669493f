"""How good a result is: metrics under named conventions, added energy, checks of each result."""
