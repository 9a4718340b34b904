"""epcgroup limits, accounts for and shows the SGX EPC memory of containers and pods.

Imports nothing: `import epcgroup.agent` must not load the engine.
"""

__version__ = "0.1.0"
