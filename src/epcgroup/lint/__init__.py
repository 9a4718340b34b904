"""What manifests ask for that cannot work: rules over pod templates, and the enclave configurations they belong to.

view.py turns documents into what rules look at, rules.py is the table of them, check.py runs it, output.py writes what
was found. Nothing here knows a cluster or a node: what is not in the files is given by the caller.
"""
