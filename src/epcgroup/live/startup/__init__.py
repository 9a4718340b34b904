"""A folder for PYTHONPATH: the interpreter finds its sitecustomize.py there. Nothing here is imported by epcgroup."""
