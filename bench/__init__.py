"""How fast the machine is: `python -m bench` prints one table, one row a goal.

Times are CPU time of one thread; what is compared runs in turn in one process, and the best of several turns
counts. The live daemon and its comparator are processes (`live/`), measured on the clock as well. A comparator that is
not there (no C compiler, no libcachesim) leaves its row out, with the reason.
"""
