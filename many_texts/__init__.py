"""The machinery of batch.py: tables in and out, what a worker does, what is finished, the cluster."""
