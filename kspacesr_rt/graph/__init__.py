"""How graphs change: function bodies, precision, 8 bits, phases and costs; no torch."""
