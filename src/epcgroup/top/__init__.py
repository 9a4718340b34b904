"""`epcgroup top`: who uses the EPC now, on any node, without the engine and numpy.

sources.py looks, rows.py makes rows of what was seen, screen.py text of the rows, keys.py changes the view, and
terminal.py alone knows a terminal.
"""
