"""Checks of a published run, from its folder and its vector tables alone. Checks that need the model belong to `capture.verification`."""
