"""An index -> an HTTP API and a search page. No torch."""
