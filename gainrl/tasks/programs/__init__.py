"""Tasks whose completions are programs."""
