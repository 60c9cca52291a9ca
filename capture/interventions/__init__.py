"""Interventions: values inside a model changed while it runs, at heads, q, k, v, block outputs and the residual stream."""
