"""What interventions do to a task's metric: ablation and patching of pairs of prompts, as runs of their own."""
