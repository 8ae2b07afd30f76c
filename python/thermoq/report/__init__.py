"""What a run reports: the typed model, and its JSON, HTML page and log. Computes no metric."""
