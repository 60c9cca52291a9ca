"""The worker of a console's live mode: a model that stays loaded, and makes a run of each job that it is given."""
